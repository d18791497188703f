"""verl's parquet rows (docs/preparation/prepare_data.rst), with the expert's action as the ground truth."""

from srl_swe.curation.exports.target import Export, Place, Row, Target
from srl_swe.types import Message, StepExample

DATA_SOURCE = "srl_swe"

_USAGE = """\
```
python -m verl.trainer.main_ppo \\
    data.train_files=train.parquet data.val_files={validation}.parquet \\
    data.max_prompt_length=8192 data.max_response_length=1024 data.filter_overlong_prompts=True \\
    actor_rollout_ref.model.path=MODEL actor_rollout_ref.rollout.n=8 actor_rollout_ref.rollout.name=vllm \\
    algorithm.adv_estimator=grpo actor_rollout_ref.actor.use_kl_loss=False \\
    reward.custom_reward_function.path=pkg://srl_swe.rewards \\
    reward.custom_reward_function.name=verl_score
```

srl_swe must be installed where verl's workers run. Versions of verl without `pkg://` and without the group `reward`
take `custom_reward_function.path=$(python -c "import srl_swe.rewards as r; print(r.__file__)")
custom_reward_function.name=verl_score`.

`verl_score` gives what `srl-swe train` gives: -1 where the format is broken, else the similarity of the command to the
ground truth. verl takes special tokens out of completions before it scores them. A chat template that itself writes
`<think>` for the assistant keeps it from the completion; say so with
`'+reward.custom_reward_function.reward_kwargs={{prefill: "<think>\\n"}}'`.
"""


def verl_row(example: StepExample, prompt: list[Message], place: Place) -> Row:
    """Return the row of an example."""
    return {
        "data_source": DATA_SOURCE,
        "prompt": prompt,
        "ability": "software_engineering",
        "reward_model": {"style": "rule", "ground_truth": example.expert_action},
        "extra_info": {
            "split": place.part,
            "index": place.index,
            "example_id": example.example_id,
            "instance_id": example.instance_id,
            "step_index": example.step_index,
        },
    }


def _usage(export: Export) -> str:
    return _USAGE.format(validation="validation" if "validation" in export.num_rows else "train")


VERL = Target(title="verl", row=verl_row, suffix=".parquet", usage=_usage)
