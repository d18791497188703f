import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from srl_swe.errors import ConfigError, DataError, DivergenceError, ModelError
from srl_swe.training.policy import Policy
from srl_swe.training.processes import Processes
from srl_swe.training.sft import collect_targets
from srl_swe.training.trainer import train
from srl_swe.training.update import update_policy

from .run_tiny import tiny_config
from .tiny import DOMAIN, make_examples, write_model

TRAIN, HELD_OUT = make_examples(20), make_examples(8, prefix="v")


def test_sft_then_srl_learns(tiny_model: Path, tmp_path: Path) -> None:
    sft = tiny_config(tiny_model, tmp_path / "sft", "sft", num_iterations=40, validate_every=10, checkpoint_every=40)
    warm = train(sft, TRAIN, HELD_OUT, DOMAIN)
    assert warm.initial_reward is not None
    assert warm.best_reward is not None
    assert warm.best_model is not None
    assert warm.best_reward > warm.initial_reward + 0.5
    losses = [json.loads(line).get("train/loss") for line in (sft.output / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.5 * losses[1]

    srl = tiny_config(warm.best_model, tmp_path / "srl", "srl", num_iterations=15, validate_every=5, learning_rate=2e-3)
    strong = train(srl, TRAIN, HELD_OUT, DOMAIN)
    rewards = [json.loads(line)["reward/mean"] for line in (srl.output / "metrics.jsonl").read_text().splitlines()[1:]]
    assert sum(rewards[-5:]) > sum(rewards[:5])
    assert strong.initial_reward == pytest.approx(warm.best_reward)
    # Both are ordinary model folders.
    assert strong.best_model is not None
    for folder in (strong.best_model, strong.last_model):
        assert Policy.from_pretrained(folder).tokenizer.chat_template
        assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_the_run_writes_down_what_it_was(tiny_model: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_model, tmp_path / "run", "srl", num_iterations=2, learning_rate=None, data="steps/")
    train(config, TRAIN, HELD_OUT, DOMAIN)
    options = json.loads((tmp_path / "run" / "config.json").read_text())
    assert options["learning_rate"] == 5e-7
    assert options["data"] == "steps/"
    entries = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["iteration"] for entry in entries] == [0, 1, 2]
    last = entries[-1]
    for name in ("time/sampling_s", "time/training_s", "time/validation_s", "sampling/completion_tokens"):
        assert last[name] > 0
    # What several rollouts of a prompt share is computed once.
    assert last["train/tree_tokens"] < last["train/row_tokens"]


def test_without_held_out_steps_the_last_model_is_what_there_is(tiny_model: Path, tmp_path: Path) -> None:
    result = train(tiny_config(tiny_model, tmp_path / "run", "sft", num_iterations=2), TRAIN, [], DOMAIN)
    assert result.best_model is None
    assert result.initial_reward is None
    assert (result.last_model / "model.safetensors").is_file()


def test_trackers_by_name(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is in the dev extra")
    train(tiny_config(tiny_model, tmp_path, "sft", num_iterations=1, trackers=("tensorboard",)), TRAIN, [], DOMAIN)
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_bfloat16_and_gradient_checkpointing(tiny_model: Path, tmp_path: Path) -> None:
    config = tiny_config(
        tiny_model,
        tmp_path / "run",
        "srl",
        num_iterations=2,
        dtype="bfloat16",
        gradient_checkpointing=True,
        kl_coef=0.1,
    )
    result = train(config, TRAIN, HELD_OUT, DOMAIN)
    assert all(p.dtype == torch.float32 for p in Policy.from_pretrained(result.last_model).model.parameters())


def test_divergence_leaves_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    policy = Policy.from_pretrained(tiny_model)
    config = tiny_config(tiny_model, tmp_path, "sft")
    batch = collect_targets(TRAIN, drawn=0, policy=policy, domain=DOMAIN, config=config)
    optimizer = torch.optim.AdamW(policy.model.parameters())
    with torch.no_grad():
        policy.model.model.norm.weight[0] = torch.inf
    before = [parameter.clone() for parameter in policy.model.parameters()]
    with pytest.raises(DivergenceError, match=r"learning rate 0\.5: training diverged"):
        update_policy(
            policy,
            batch,
            optimizer=optimizer,
            processes=Processes(Accelerator(cpu=True)),
            learning_rate=0.5,
            config=config,
        )
    for parameter, old in zip(policy.model.parameters(), before, strict=True):
        assert parameter.equal(old)


def test_bad_input(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no step examples"):
        train(tiny_config(tiny_model, tmp_path / "a", "sft"), [], HELD_OUT, DOMAIN)
    with pytest.raises(DataError, match="prompt_too_long"):
        train(tiny_config(tiny_model, tmp_path / "b", "sft", max_prompt_tokens=3), TRAIN, HELD_OUT, DOMAIN)
    with pytest.raises(ConfigError, match="context of 256 tokens"):
        long = {"max_completion_tokens": 300, "tokens_per_pack": 400, "cached_tokens": 2000}
        train(tiny_config(tiny_model, tmp_path / "c", "sft", **long), TRAIN, HELD_OUT, DOMAIN)
    with pytest.raises(ModelError, match="no model folder"):
        train(tiny_config(tmp_path / "nowhere", tmp_path / "d", "sft"), TRAIN, HELD_OUT, DOMAIN)


def test_a_run_that_never_began_does_not_hold_its_folder(tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(ModelError):
        train(tiny_config(tmp_path / "absent", output, "sft", num_iterations=1), make_examples(4), (), DOMAIN)
    config = tiny_config(write_model(tmp_path / "model"), output, "sft", num_iterations=1)
    assert train(config, make_examples(4), (), DOMAIN).iterations == 1
