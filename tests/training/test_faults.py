"""What ends a run, and what is left of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from srl_swe.errors import ConfigError, DivergenceError, MalformedCompletionError, MemoryExhaustedError, NoSignalError
from srl_swe.training.checkpoint import newest_checkpoint
from srl_swe.training.faults import memory_explained, require_finite
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Pack
from srl_swe.training.rollouts import make_group
from srl_swe.training.samplers import SampledCompletion
from srl_swe.training.trainer import train
from srl_swe.types import Completion

from .run_tiny import tiny_config
from .tiny import DOMAIN, make_examples

TRAIN, HELD_OUT = make_examples(20), make_examples(6, prefix="v")


def iterations(run: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_divergence_says_where_and_keeps_the_checkpoint(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Broken from some pack on, after the check at loading and a few iterations.
    real, calls = Policy.logprobs, []

    def breaking(self: Policy, pack: Pack, *, temperature: float = 1.0) -> Tensor:
        calls.append(pack)
        return real(self, pack, temperature=temperature) * (float("nan") if len(calls) > 6 else 1)

    config = tiny_config(tiny_model, tmp_path / "run", "sft", updates_per_iteration=1, checkpoint_every=1)
    monkeypatch.setattr(Policy, "logprobs", breaking)
    with pytest.raises(DivergenceError, match=r"iteration (\d+): the loss is nan .* step examples t\d+") as caught:
        train(config, TRAIN, [], DOMAIN)
    monkeypatch.undo()
    failed = int(str(caught.value).split(":")[0].removeprefix("iteration "))
    assert failed > 1
    kept = newest_checkpoint(config.output)
    assert kept is not None
    assert kept.name == f"{failed - 1:06d}"
    assert all(p.isfinite().all() for p in Policy.from_pretrained(kept).model.parameters())
    assert iterations(config.output) == list(range(failed))
    assert train(config, TRAIN, [], DOMAIN).iterations == 10


def test_a_divergence_names_few_ids() -> None:
    with pytest.raises(DivergenceError, match=r"gradient norm is inf .* t0, t1, t2, t3, t4, t5, t6, t7 and 4 more"):
        ids = [f"t{i // 2}" for i in range(24)]
        require_finite("gradient norm", torch.tensor(torch.inf), ids, learning_rate=1e-3)


def test_a_gradient_that_is_not_finite_changes_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Policy.logprobs

    def steep(self: Policy, pack: Pack, *, temperature: float = 1.0) -> Tensor:
        logprobs = real(self, pack, temperature=temperature)
        # Finite, but its derivative at 0 is not.
        return logprobs - (logprobs - logprobs.detach()).abs().sqrt().sum()

    monkeypatch.setattr(Policy, "logprobs", steep)
    with pytest.raises(DivergenceError, match="iteration 1: the gradient norm is nan"):
        train(tiny_config(tiny_model, tmp_path / "run", "sft"), TRAIN, [], DOMAIN)
    assert newest_checkpoint(tmp_path / "run") is None


def test_no_signal_ends_the_run_and_says_what_to_do(tiny_model: Path, tmp_path: Path) -> None:
    def refuse(text: str) -> Completion:
        raise MalformedCompletionError("never right")

    config = tiny_config(tiny_model, tmp_path / "run", "srl", max_flat_iterations=2, max_refills=1)
    for _ in range(2):  # The same command does not begin again.
        with pytest.raises(NoSignalError, match=r"last 2 iterations \(up to 2\).*--max-flat-iterations"):
            train(config, TRAIN, HELD_OUT, replace(DOMAIN, parse=refuse))
    assert iterations(config.output) == [0, 1, 2]
    result = train(replace(config, max_flat_iterations=100), TRAIN, HELD_OUT, DOMAIN)
    assert (result.ending, result.iterations) == ("done", 10)


def test_patience_ends_the_run_and_the_best_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    # The learning rate is too small to change any greedy answer, so no validation is better than the first.
    config = tiny_config(
        tiny_model, tmp_path / "run", "sft", patience=2, validate_every=1, learning_rate=1e-12, checkpoint_every=50
    )
    result = train(config, TRAIN, HELD_OUT, DOMAIN)
    assert (result.ending, result.iterations, result.best_iteration) == ("patience", 2, 0)
    assert iterations(config.output) == [0, 1, 2]
    assert (result.last_model / "model.safetensors").is_file()
    # A resumed run knows that it has ended; with more patience it goes on as if it had not.
    assert train(config, TRAIN, HELD_OUT, DOMAIN) == result
    longer = train(replace(config, patience=4), TRAIN, HELD_OUT, DOMAIN)
    assert (longer.ending, longer.iterations) == ("patience", 4)
    assert iterations(config.output) == [0, 1, 2, 3, 4]


def test_another_set_is_refused_with_both_hashes(tiny_model: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_model, tmp_path / "run", "sft", num_iterations=1)
    train(config, TRAIN, [], DOMAIN, selection={"content_hash": "aaa"})
    with pytest.raises(ConfigError, match="content_hash aaa then, bbb now"):
        train(config, TRAIN[1:], [], DOMAIN, selection={"content_hash": "bbb"})


def test_a_completion_at_the_length_limit_is_malformed() -> None:
    example = make_examples(1)[0]
    completions = [
        SampledCompletion(ids=(1, 2), logprobs=(-0.1, -0.1), text="hm|aa", stop_reason=reason)
        for reason in ("stop", "length")
    ]
    ended, cut = make_group(example, (1,), completions, DOMAIN).rollouts
    assert (ended.reward, cut.reward) == (1.0, -1.0)
    assert cut.reward_parts == {"similarity": 0.0, "well_formed": 0.0}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
    ],
)
def test_lack_of_memory_names_sizes_and_options(error: Exception) -> None:
    expected = r"training ran out .*tokens 7, packs 2\).*lower --tokens-per-pack"
    explained = memory_explained("training", {"tokens": 7, "packs": 2}, advice="lower --tokens-per-pack")
    with pytest.raises(MemoryExhaustedError, match=expected), explained:
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_explained("training", {}, advice=""):
        raise RuntimeError("shape mismatch")


def test_a_run_that_lacks_memory_says_so(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_: object, **__: object) -> Tensor:
        # Really asks for it: 4 EB.
        return torch.empty(10**18)

    # Training sizes its packs first; so the model loads and only its gradients lack room.
    monkeypatch.setattr("srl_swe.training.update.likelihood_loss", too_much)
    with pytest.raises(MemoryExhaustedError, match=r"tokens in the pack \d+, tokens_per_pack 64.*--gradient-check"):
        train(tiny_config(tiny_model, tmp_path / "a", "sft"), TRAIN, [], DOMAIN)
    monkeypatch.undo()
    monkeypatch.setattr("srl_swe.training.transformers_sampler.TransformersSampler._prefill", too_much)
    with pytest.raises(MemoryExhaustedError, match=r"sampling ran out .*rollouts per prompt 4.*--concurrent-rollouts"):
        train(tiny_config(tiny_model, tmp_path / "b", "srl"), TRAIN, [], DOMAIN)


def test_sft_then_kl_keeps_the_policy_near(tiny_model: Path, tmp_path: Path) -> None:
    distances = {}
    for kl_coef in (1e-6, 5.0):
        config = tiny_config(tiny_model, tmp_path / str(kl_coef), "srl", kl_coef=kl_coef, num_iterations=6)
        train(config, TRAIN, [], DOMAIN)
        entries = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
        distances[kl_coef] = [e["train/kl_to_reference"] for e in entries if "train/kl_to_reference" in e][-1]
    assert distances[5.0] < distances[1e-6]


@pytest.mark.parametrize("loss", ["dapo", "dr_grpo", "gspo"])
def test_each_loss_trains(tiny_model: Path, tmp_path: Path, loss: str) -> None:
    config = tiny_config(tiny_model, tmp_path / "run", "srl", num_iterations=2, loss=loss, mask_overlong=True)
    train(config, TRAIN, [], DOMAIN)
    options = json.loads((config.output / "config.json").read_text())
    assert options["loss"] == loss
    last = json.loads((config.output / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["train/entropy"] < 4
    assert last["train/kl_to_sampler"] >= 0
    for unit in ("rollouts", "rollout_tokens"):
        parts = ("trained", "masked", "surplus", "flat", "all_malformed")
        assert last[f"{unit}/sampled"] == sum(last[f"{unit}/{part}"] for part in parts)
    assert last["rollouts/sampled"] == 4 * last["sampling/prompts"]
    shutil.rmtree(config.output)
