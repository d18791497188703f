"""TRL's conversational prompt-only rows, with the expert's action as a column that reaches the reward function."""

from srl_swe.curation.exports.target import Export, Place, Row, Target
from srl_swe.types import Message, StepExample

_USAGE = """\
```python
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from srl_swe.rewards import trl_reward

trainer = GRPOTrainer(
    model="MODEL",
    reward_funcs=trl_reward,
    train_dataset=load_dataset("json", data_files="train.jsonl", split="train"),
    args=GRPOConfig(
        output_dir="runs/trl",
        num_generations=8,
        max_completion_length=1024,
        learning_rate=5e-7,
        beta=0.0,
        loss_type="grpo",
    ),
)
trainer.train()
```

`trl_reward` gives what `srl-swe train` gives: -1 where the format is broken, else the similarity of the command to
`expert_action`. TRL hands it all columns. Two things differ from our trainer: TRL takes special tokens out of
completions before it scores them, and it keeps groups whose rewards do not vary (they bring no gradient).

A chat template that itself writes `<think>` for the assistant keeps it from the completion; say so with
`reward_funcs=functools.partial(trl_reward, prefill="<think>\\n")`.
"""


def trl_row(example: StepExample, prompt: list[Message], place: Place) -> Row:
    """Return the row of an example: TRL trains on `prompt` and gives the other columns to the reward function."""
    return {
        "prompt": prompt,
        "expert_action": example.expert_action,
        "example_id": example.example_id,
        "instance_id": example.instance_id,
        "trajectory_id": example.trajectory_id,
        "step_index": example.step_index,
    }


def _usage(export: Export) -> str:
    return _USAGE


TRL = Target(title="TRL", row=trl_row, suffix=".jsonl", usage=_usage)
