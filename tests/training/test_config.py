import itertools
from pathlib import Path

import pytest

from srl_swe.errors import ConfigError
from srl_swe.training.config import TrainConfig


def make(**changes: object) -> TrainConfig:
    return TrainConfig(**({"model": "m", "output": Path("o")} | changes))  # type: ignore[arg-type]


def test_defaults_are_the_papers() -> None:
    srl, sft = make().recipe, make(method="sft").recipe
    assert (srl.prompts_per_iteration, srl.learning_rate, srl.warmup_ratio, srl.schedule) == (
        512,
        5e-7,
        0.0,
        "constant",
    )
    assert (sft.prompts_per_iteration, sft.learning_rate, sft.warmup_ratio, sft.schedule) == (64, 5e-6, 0.3, "cosine")
    assert (srl.epochs, sft.epochs) == (30, 3)
    assert make(learning_rate=1e-4).recipe.learning_rate == 1e-4
    assert make(method="sft", warmup_ratio=0.0).recipe.warmup_ratio == 0.0


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("learning_rate", 0.0, r"learning_rate must be a number in \(0, 1\), found 0.0"),
        ("learning_rate", float("nan"), "learning_rate"),
        ("method", "ppo", "sft, srl or rlvr"),
        ("rollouts_per_prompt", 1, "at least 2"),
        ("num_iterations", 0, "at least 1"),
        ("clip_range", 1.0, r"\(0, 1\)"),
        ("max_grad_norm", float("inf"), "finite"),
        ("tokens_per_pack", 5000, "max_completion_tokens = 5120"),
        ("cached_tokens", 5000, "12288"),
        ("temperature", 0.0, r"\(0, 10\]"),
        ("model", "", "folder"),
        ("loss", "ppo", "grpo, dapo, dr_grpo, gspo, found 'ppo'"),
        ("clip_range_high", 0.0, r"\(0, 100\)"),
        ("kl_coef", -1.0, r"\[0, 100\)"),
        ("max_oversampling", 0.5, r"\[1, 100\]"),
        ("patience", 0, "at least 1"),
        ("max_flat_iterations", 0, "at least 1"),
        ("skip_after_flat", -1, "at least 0"),
        ("sampler", "vlm", "transformers, vllm, or http://HOST:PORT of a vLLM server, found 'vlm'"),
        ("importance_cap", 0.5, r"0, or a number in \[1, 1000\), found 0.5"),
    ],
)
def test_errors_name_field_value_and_range(field: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make(**{field: value})


def test_the_importance_correction_is_for_engines_that_round_otherwise() -> None:
    assert make().truncation is None
    assert make(sampler="vllm").truncation == 2
    assert make(sampler="vllm", importance_cap=5.0).truncation == 5
    assert make(sampler="vllm", importance_cap=0.0).truncation is None
    assert make(importance_cap=3.0).truncation == 3
    assert make(sampler="vllm").as_json()["importance_cap"] == 2
    assert make().as_json()["importance_cap"] == 0


def test_clip_ranges_are_the_losss() -> None:
    assert make().clip_ranges == (0.2, 0.2)
    assert make(loss="dapo").clip_ranges == (0.2, 0.28)
    assert make(loss="gspo").clip_ranges == (3e-4, 4e-4)
    assert make(loss="dapo", clip_range=0.1).clip_ranges == (0.1, 0.1)
    assert make(loss="gspo", clip_range_high=0.5).as_json()["clip_range_high"] == 0.5
    with pytest.raises(ConfigError, match="kl_coef must be left out for sft"):
        make(method="sft", kl_coef=0.1)


def test_iterations_follow_from_epochs() -> None:
    # The paper: 134k step examples in batches of 512 are 262 iterations an epoch.
    assert make(epochs=1).count_iterations(134_000) == 262
    assert make(method="sft").count_iterations(65) == 3 * 2
    assert make(num_iterations=7).count_iterations(134_000) == 7


def test_learning_rate_by_hand() -> None:
    cosine = make(method="sft", learning_rate=0.8, warmup_ratio=0.3)
    rates = [cosine.learning_rate_at(iteration, 10) for iteration in range(1, 11)]
    assert rates[:3] == pytest.approx([0.8 / 3, 1.6 / 3, 0.8])
    # Seven iterations after warm-up: the fourth is half way of eight.
    assert rates[6] == pytest.approx(0.4)
    assert all(earlier > later > 0 for earlier, later in itertools.pairwise(rates[2:]))
    constant = make(learning_rate=0.8)
    assert {constant.learning_rate_at(iteration, 10) for iteration in range(1, 11)} == {0.8}


def test_the_schedule_follows_the_tokens_where_they_are_the_limit() -> None:
    options: dict[str, object] = {"max_trained_tokens": 100, "learning_rate": 0.8, "warmup_ratio": 0.2}
    cosine = make(**options, schedule="cosine")
    rates = [cosine.learning_rate_after(tokens) for tokens in (10, 20, 60, 100, 130)]
    assert rates == pytest.approx([0.4, 0.8, 0.4, 0.0, 0.0])
    constant = make(**options, schedule="constant")
    assert [constant.learning_rate_after(tokens) for tokens in (5, 20, 130)] == pytest.approx([0.2, 0.8, 0.8])
    # Epochs are no limit then, iterations still are.
    assert cosine.count_iterations(1) == 100
    assert make(**options, num_iterations=7).count_iterations(1) == 7
    with pytest.raises(ConfigError, match="max_trained_tokens must be an integer of at least 1, found 0"):
        make(max_trained_tokens=0)
