"""TRL itself on the exported files: real steps of its trainers with a random model of two layers."""

import json
from pathlib import Path
from typing import Any

import pytest

from srl_swe.curation.exports.writing import export_steps
from srl_swe.rewards import trl_reward
from tests.curation.export_sets import PROMPTS, write_set

torch = pytest.importorskip("torch", reason="extra [train] is not installed")
trl = pytest.importorskip("trl", reason="TRL is in the dev extra")
datasets = pytest.importorskip("datasets", reason="extra [eval] is not installed")


def exported_rows(tmp_path: Path, target: str) -> Any:
    """Return the rows of the small set as `datasets` reads them."""
    export_steps(write_set(tmp_path / "steps"), tmp_path / "out", target, limits=PROMPTS)
    path = str(tmp_path / "out" / "train.jsonl")
    return datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random model of two layers with one token per byte, so that every text is its own tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=template)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=4096, eos_token_id=wrapped.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bytes")
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def cpu_options(folder: Path) -> dict[str, Any]:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return {"output_dir": str(folder), "max_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none",
            "save_strategy": "no", "gradient_checkpointing": False, "disable_tqdm": True}  # fmt: skip


def test_trl_trains_on_the_exported_rows(tmp_path: Path, byte_model: Path) -> None:
    """One real step of GRPO; the sampler's place is taken by completions whose rewards are known."""
    rows = exported_rows(tmp_path, "trl")
    rewards: list[list[float]] = []

    def reward(**columns: Any) -> list[float]:
        rewards.append(trl_reward(**columns))
        return rewards[-1]

    def completions(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        actions = {json.dumps(row["prompt"]): row["expert_action"] for row in rows}
        encode = trainer.processing_class.encode
        expert = [actions[json.dumps(prompt)] for prompt in prompts]
        texts = [f"<think>\né\n</think>\n````bash\n{action}\n````" for action in expert]
        texts[1] = "no format"
        ends = [trainer.processing_class.eos_token_id]
        return {
            "prompt_ids": [encode(prompt[-1]["content"])[:50] for prompt in prompts],
            "completion_ids": [encode(text) + ends for text in texts],
            "logprobs": [[0.0] * (len(encode(text)) + 1) for text in texts],
        }

    trainer = trl.GRPOTrainer(
        model=str(byte_model),
        reward_funcs=reward,
        train_dataset=rows,
        rollout_func=completions,
        args=trl.GRPOConfig(
            num_generations=2, per_device_train_batch_size=2, max_completion_length=400, learning_rate=1e-3, beta=0.0,
            loss_type="grpo", **cpu_options(tmp_path),
        ),
    )  # fmt: skip
    before = trainer.model.model.embed_tokens.weight.detach().clone()
    trainer.train()
    assert rewards == [[1.0, -1.0]]
    assert not before.equal(trainer.model.model.embed_tokens.weight)


def test_trl_samples_for_the_exported_rows(tmp_path: Path, byte_model: Path) -> None:
    """The README's own call: the random model samples, nothing it says keeps the format."""
    rows = exported_rows(tmp_path, "trl")
    options = trl.GRPOConfig(
        num_generations=2, per_device_train_batch_size=2, max_completion_length=4, logging_steps=1,
        **cpu_options(tmp_path),
    )  # fmt: skip
    trainer = trl.GRPOTrainer(model=str(byte_model), reward_funcs=trl_reward, train_dataset=rows, args=options)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "rewards/trl_reward/mean" in entry]
    assert [entry["rewards/trl_reward/mean"] for entry in logged] == [-1.0]


def test_trl_fine_tunes_on_the_chat_rows(tmp_path: Path, byte_model: Path) -> None:
    rows = exported_rows(tmp_path, "chat")
    trainer = trl.SFTTrainer(
        model=str(byte_model),
        train_dataset=rows.map(
            lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}, remove_columns="messages"
        ),
        args=trl.SFTConfig(per_device_train_batch_size=2, max_length=None, **cpu_options(tmp_path)),
    )
    batch = trainer.data_collator([trainer.train_dataset[0]])
    learned = batch["input_ids"][0][batch["labels"][0] != -100]
    expert = rows[0]["messages"][-1]["content"]
    assert trainer.processing_class.decode(learned).strip() == f"{expert}<|im_end|>"
    assert trainer.train().training_loss > 0
