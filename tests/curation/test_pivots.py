"""Pivots by hand, and `srl-swe train --profile` from the files to the run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.cli.data import run as run_data
from srl_swe.cli.train import run as run_train
from srl_swe.curation.pivots import QUANTILES, PivotRule, loss_of, select_pivots, spread_of, summarize
from srl_swe.curation.profile_file import StepProfile, fingerprint_model, read_profile
from srl_swe.errors import ConfigError, DataError, ModelError
from srl_swe.training.data_order import fingerprint
from srl_swe.trajectories.store import PROFILE, read_manifest, read_steps, write_steps
from srl_swe.types import CompiledTrajectory, Step, Trajectory
from tests.training.tiny import make_examples, make_model, make_tokenizer

REWARDS: dict[str, tuple[float, ...]] = {
    "t0": (0.2, 0.4, 0.2, 0.4),
    "t1": (0.5, 0.5, 0.5, 0.5 + 1e-9),
    "t2": (-1.0, -1.0, -1.0, -1.0),
    "t3": (-1.0, 0.5, 0.5, 0.5),
    "t4": (-1.0, 0.9, 1.0, 0.8),
    "t5": (0.8, 1.0, 0.8, 1.0),
}
"""Varied, equal up to rounding, malformed, format only, both, varied with a high mean."""


def step_profile(example_id: str, rewards: tuple[float, ...]) -> StepProfile:
    similarities = [reward for reward in rewards if reward != -1]
    mean = sum(similarities) / len(similarities) if similarities else 0.0
    variance = sum((s - mean) ** 2 for s in similarities) / len(similarities) if similarities else 0.0
    return StepProfile(
        example_id=example_id,
        prompt_tokens=5,
        rewards=rewards,
        well_formed=len(similarities),
        similarity_std=variance**0.5,
    )


STEPS = [
    *(step_profile(example_id, rewards) for example_id, rewards in REWARDS.items()),
    StepProfile(example_id="t6", prompt_tokens=9999, skipped="prompt_too_long"),
]


def test_spread_by_hand() -> None:
    spreads = ["similarity", "all_equal", "all_malformed", "format_only", "similarity", "similarity", "skipped"]
    assert [spread_of(step, 1e-4) for step in STEPS] == spreads


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (PivotRule(), ["t0", "t3", "t4", "t5"]),
        (PivotRule(min_profile_std=0.1), ["t3", "t4"]),
        # The means are 0.3, 0.125, 0.425, 0.9; the limit is inclusive.
        (PivotRule(max_profile_mean=0.5), ["t0", "t3", "t4"]),
        (PivotRule(max_profile_mean=0.125), ["t3"]),
    ],
)
def test_selection_by_hand(rule: PivotRule, kept: list[str]) -> None:
    examples = make_examples(8)
    pivots = select_pivots(examples, STEPS, rule)
    assert [example.example_id for example in pivots.examples] == kept
    assert len(kept) + sum(pivots.dropped.values()) == 8
    assert pivots.dropped["skipped"] == pivots.dropped["not_profiled"] == 1


def test_losses_by_hand() -> None:
    rule = PivotRule(max_profile_mean=0.5)
    losses = [None, "no_spread", "no_spread", None, None, "mean_too_high", "skipped"]
    assert [loss_of(step, rule) for step in STEPS] == losses
    assert loss_of(None, rule) == "not_profiled"


def test_the_order_is_that_of_the_examples() -> None:
    examples = make_examples(8)[::-1]
    pivots = select_pivots(examples, STEPS, PivotRule())
    assert [example.example_id for example in pivots.examples] == ["t5", "t4", "t3", "t0"]


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(DataError, match=r"none of 3 step examples \(1 mean_too_high, 2 no_spread\)"):
        select_pivots(make_examples(3), STEPS, PivotRule(max_profile_mean=-0.5))


def test_summary_by_hand() -> None:
    summary = summarize(STEPS, PivotRule(max_profile_mean=0.5))
    assert summary.spreads == {"similarity": 3, "all_equal": 1, "all_malformed": 1, "format_only": 1, "skipped": 1}
    assert summary.num_kept == 3
    assert dict(zip(QUANTILES, summary.mean_quantiles, strict=True))[0.0] == -1.0
    assert summary.mean_quantiles[-1] == pytest.approx(0.9)
    assert summarize(STEPS[-1:], PivotRule()).mean_quantiles == ()


def test_rules_are_checked() -> None:
    for name, value in (("min_profile_std", 0.0), ("min_profile_std", 1.0), ("max_profile_mean", 1.5)):
        with pytest.raises(ConfigError, match=name):
            PivotRule(**{name: value})


@pytest.fixture(scope="module")
def roomy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose context holds real prompts, one token per character."""
    folder = tmp_path_factory.mktemp("roomy")
    tokenizer = make_tokenizer()
    model = make_model(vocab_size=len(tokenizer))
    model.config.max_position_embeddings = 4096
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_set(folder: Path, *, first: int = 0) -> Path:
    """Six steps of six trajectories for training, one held out."""

    def compiled(number: int, instance_id: str) -> CompiledTrajectory:
        step = Step(thought="look", action=f"cat {number}", observation="", exit_code=0)
        trajectory = Trajectory(
            trajectory_id=f"t{number}",
            instance_id=instance_id,
            problem_statement="it fails",
            steps=(step,),
            patch="",
            source="made",
            model="",
            resolved=None,
        )
        return CompiledTrajectory(trajectory=trajectory, targets=(0,))

    made = [compiled(number, "train") for number in range(first, first + 6)] + [compiled(99, "held-out")]
    write_steps(made, folder, header={}, choose_validation=lambda _: frozenset({"held-out"}))
    return folder


def profile_by_hand(steps: Path, model: Path) -> Path:
    """The profile of the two first steps by the command, with the rewards of all six put into it by hand."""
    options = ["--limit", "2", "--samples", "4", "--max-completion-tokens", "16", "--dtype", "float32"]
    assert run_data(["profile", str(steps), "--model", str(model), *options]) == 0
    path = steps / PROFILE
    header = path.read_text().splitlines()[0]
    records = [step_profile(f"{name}#0", rewards).as_record() for name, rewards in REWARDS.items()]
    path.write_text("\n".join([header, *map(json.dumps, records)]) + "\n")
    return path


def train_words(steps: Path, model: Path, output: Path, *more: str) -> list[str]:
    words = f"--data {steps} --model {model} --output {output} --method sft --num-iterations 1 --dtype float32"
    limits = "--prompts-per-iteration 2 --max-completion-tokens 64 --threads 1 --device cpu"
    return [*words.split(), *limits.split(), *more]


def test_training_keeps_exactly_the_pivots(
    roomy_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = write_set(tmp_path / "steps")
    path = profile_by_hand(steps, roomy_model)
    assert "steps" in capsys.readouterr().out
    chosen = ("--profile", str(path), "--max-profile-mean", "0.5")
    words = train_words(steps, roomy_model, tmp_path / "run", *chosen)
    assert run_train(words) == 0
    printed = capsys.readouterr().out
    assert "kept 3 of 6 step examples (dropped: 1 mean_too_high, 2 no_spread)" in printed
    assert "note: the profile was made otherwise than this run samples: max_completion_tokens 16 there" in printed
    expected = [example for example in read_steps(steps) if example.trajectory_id in ("t0", "t3", "t4")]
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["data_fingerprints"]["train"] == fingerprint(expected)
    assert written["profile"] == str(path)
    assert written["profile_model"] == fingerprint_model(roomy_model)
    assert (written["min_profile_std"], written["max_profile_mean"]) == (1e-4, 0.5)
    assert (written["num_profile_kept"], written["num_profile_steps"]) == (3, 6)

    # The same choice goes on, wherever the profile lies; another one is refused.
    moved = path.rename(tmp_path / "moved.jsonl")
    again = train_words(steps, roomy_model, tmp_path / "run", "--profile", str(moved), "--max-profile-mean", "0.5")
    assert run_train(again) == 0
    with pytest.raises(ConfigError, match=r"max_profile_mean: 0\.5 then, None now"):
        run_train(train_words(steps, roomy_model, tmp_path / "run", "--profile", str(moved)))
    with pytest.raises(ConfigError, match=r"min_profile_std: 0\.0001 then, None now"):
        run_train(train_words(steps, roomy_model, tmp_path / "run"))


def test_a_profile_of_another_set_or_part_is_refused(roomy_model: Path, tmp_path: Path) -> None:
    steps, other = write_set(tmp_path / "steps"), write_set(tmp_path / "other", first=1)
    path = profile_by_hand(steps, roomy_model)
    words = train_words(other, roomy_model, tmp_path / "run", "--profile", str(path))
    with pytest.raises(ConfigError, match="profile that set with"):
        run_train(words)
    header = replace(read_profile(path).header, part="validation")
    assert header.differences(read_profile(path).header) == ["part: 'validation' then, 'train' now"]
    path.write_text(path.read_text().replace('"part": "train"', '"part": "validation"', 1))
    with pytest.raises(ConfigError, match="profiles part validation"):
        run_train(train_words(steps, roomy_model, tmp_path / "run", "--profile", str(path)))
    assert not (tmp_path / "run").exists()


def test_a_set_that_changed_under_its_run_is_refused_with_both_hashes(roomy_model: Path, tmp_path: Path) -> None:
    steps = write_set(tmp_path / "steps")
    assert run_train(train_words(steps, roomy_model, tmp_path / "run")) == 0
    then = read_manifest(steps)["content_hash"]
    now = read_manifest(write_set(steps, first=1))["content_hash"]
    with pytest.raises(ConfigError, match=f"content_hash {then} then, {now} now"):
        run_train(train_words(steps, roomy_model, tmp_path / "run"))


def test_wrong_use_is_said_at_once(roomy_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = write_set(tmp_path / "steps")
    with pytest.raises(SystemExit, match="2"):
        run_train(train_words(steps, roomy_model, tmp_path / "run", "--max-profile-mean", "0.5"))
    assert "give --profile FILE" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(DataError, match="make a profile with"):
        run_train(train_words(steps, roomy_model, tmp_path / "run", "--profile", str(tmp_path / "absent")))
    with pytest.raises(ModelError, match="no model folder"):
        run_data(["profile", str(steps), "--model", str(tmp_path / "absent")])
    assert not (steps / PROFILE).exists()
