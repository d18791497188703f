"""`srl-swe compare` with a tiny model: what is the same for every method, and what an interruption leaves."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from srl_swe.cli.compare import run
from srl_swe.cli.comparison_plan import parse_methods, parse_seeds
from srl_swe.errors import ConfigError
from srl_swe.training import rollouts, sft, validation
from tests.cli.run_compare import tiny_words, write_letters
from tests.training.tiny import DOMAIN, write_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty training steps, of which SFT can use sixteen, and six held-out ones."""
    return write_letters(tmp_path_factory.mktemp("letters") / "steps", num_thoughtless=4)


@pytest.fixture(autouse=True)
def tiny_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srl_swe.software_engineering.software_engineering", lambda limits: DOMAIN)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def digest(path: Path) -> str:
    return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()


def test_same_data_same_order_same_budget_and_nothing_done_twice(
    model: Path, steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled: list[list[str]] = []
    imitated: list[list[str]] = []
    original_sample, original_collect = rollouts.sample_groups, sft.collect_targets
    assert validation.sample_groups is original_sample  # has its own name for it: held-out steps are not recorded

    def sample_groups(examples: Sequence[Any], *args: Any, **options: Any) -> Any:
        sampled.append([example.example_id for example in examples])
        return original_sample(examples, *args, **options)

    def collect_targets(*args: Any, **options: Any) -> Any:
        batch = original_collect(*args, **options)
        imitated.append(list(batch.example_ids))
        return batch

    monkeypatch.setattr(rollouts, "sample_groups", sample_groups)
    monkeypatch.setattr("srl_swe.training.trainer.collect_targets", collect_targets)
    output = tmp_path / "compare"
    words = tiny_words(steps, model, output, "--skip-after-flat", "0", "--max-oversampling", "1")
    assert run(["--methods", "sft,srl,sft+srl", "--seeds", "2", *words]) == 0
    said = capsys.readouterr().out
    assert "training: 16 step examples for every method (dropped: 4 no_thought)" in said

    found = read(output / "comparison.json")
    assert (found["num_steps"], found["num_training_examples"], found["control"]) == (6, 16, "sft")
    assert [one["method"] for one in found["methods"]] == ["sft", "srl", "sft+srl"]
    assert [(one["method"], one["minus"]) for one in found["differences"]] == [
        *(("sft", "start"), ("srl", "start"), ("sft+srl", "start")),
        *(("srl", "sft"), ("sft+srl", "sft"), ("sft+srl", "srl")),
    ]
    # The expert's last action is the letter that it then repeats.
    assert found["copy_last_similarity"] == 1.0
    assert found["start"]["seeds"] == []
    for one in found["methods"]:
        assert one["seeds"] == [0, 1]
        assert [spent["iterations"] for spent in one["spent"]] == [4, 4]
        assert all(spent["trained_tokens"] > 0 and spent["seconds"] > 0 for spent in one["spent"])
    by_method = {one["method"]: one for one in found["methods"]}
    assert by_method["sft"]["spent"][0]["trained_tokens"] == by_method["sft"]["spent"][0]["completion_tokens"]
    assert by_method["srl"]["spent"][0]["trained_tokens"] < by_method["srl"]["spent"][0]["completion_tokens"]

    folders = (path.parent for path in output.glob("*/seed-*/*/config.json"))
    stage_folders = sorted(folder for folder in folders if not folder.is_symlink())
    names = [str(folder.relative_to(output)) for folder in stage_folders]
    assert names == [
        *("sft/seed-0/sft", "sft/seed-1/sft"),
        *("sft+srl/seed-0/sft", "sft+srl/seed-0/srl", "sft+srl/seed-1/sft", "sft+srl/seed-1/srl"),
        *("srl/seed-0/srl", "srl/seed-1/srl"),
    ]
    configs = dict(zip(names, map(read, (folder / "config.json" for folder in stage_folders)), strict=True))
    assert len({config["data_fingerprints"]["train"] for config in configs.values()}) == 1
    assert {name: config["num_iterations"] for name, config in configs.items()} == {
        name: 2 if "+" in name else 4 for name in names
    }
    assert {config["seed"] for name, config in configs.items() if "seed-1" in name} == {1}
    assert configs["sft+srl/seed-0/srl"]["model"] == str(output / "sft+srl" / "seed-0" / "sft" / "last")
    # Seed 0: sft imitates four times four steps; the first draws of srl are the same ones, in the same order.
    drawn = [example_id for batch in imitated[:4] for example_id in batch]
    assert len(drawn) == len(set(drawn)) == 16
    assert sampled[0] == drawn[:4]
    assert imitated[6] != imitated[0]  # seed 1

    # Again: everything is there. One more seed: that alone is trained.
    assert "<script" not in (output / "comparison.html").read_text()
    before = (output / "comparison.json").read_bytes(), len(imitated)
    assert run(["--methods", "sft,srl,sft+srl", "--seeds", "2", *words]) == 0
    assert ((output / "comparison.json").read_bytes(), len(imitated)) == before
    assert capsys.readouterr().out.count("trained before") == 6
    assert run(["--methods", "sft", "--seeds", "0,5", *words]) == 0
    assert len(imitated) == before[1] + 4
    assert [one["seeds"] for one in read(output / "comparison.json")["methods"]] == [[0, 5]]

    # Other options, and methods for which other steps would have been chosen, are refused.
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.01 then, 0\.02 now"):
        run(["--methods", "sft", *words, "--learning-rate", "2e-2"])
    with pytest.raises(ConfigError, match="has_sft: True then, False now"):
        run(["--methods", "srl", *words])


def test_a_killed_comparison_goes_on_to_the_same_models(model: Path, steps: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    own = ["--methods", "sft+srl", "--seeds", "7,", "--budget", "tokens", "--max-trained-tokens", "1600"]
    assert run([*own, *tiny_words(steps, model, whole, iterations=None)]) == 0
    command = [sys.executable, "-m", "tests.cli.run_compare", *own, *tiny_words(steps, model, killed, iterations=None)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    metrics = killed / "sft+srl" / "seed-7" / "srl" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(process.communicate()[0])
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "comparison.json").exists()
    assert run([*own, *tiny_words(steps, model, killed, iterations=None)]) == 0
    place = Path("sft+srl") / "seed-7"
    assert digest(whole / place / "last") == digest(killed / place / "last")
    budgets = [[stage["trained_tokens"] for stage in read(folder / place / "done.json")] for folder in (whole, killed)]
    assert budgets[0] == budgets[1] and min(budgets[0]) >= 800
    assert read(whole / place / "held-out.json")["steps"] == read(killed / place / "held-out.json")["steps"]


def test_a_budget_of_tokens(model: Path, steps: Path, tmp_path: Path) -> None:
    words = tiny_words(steps, model, tmp_path / "run", "--max-trained-tokens", "300", iterations=None)
    assert run(["--methods", "sft,srl,sft+srl", "--seeds", "1", "--budget", "tokens", *words]) == 0
    found = read(tmp_path / "run" / "comparison.json")
    assert (found["budget"], found["budget_per_run"]) == ("tokens", 300)
    for one in found["methods"]:
        [spent] = one["spent"]
        # A group has four rollouts of at most twelve tokens, an iteration four groups, a chain two stages.
        assert 300 <= spent["trained_tokens"] < 300 + 192 * (1 + ("+" in one["method"]))
    stages = read(tmp_path / "run" / "sft+srl" / "seed-0" / "done.json")
    assert all(stage["trained_tokens"] >= 150 for stage in stages)
    lines = [json.loads(line) for line in (tmp_path / "run/sft/seed-0/sft/metrics.jsonl").read_text().splitlines()]
    assert lines[-2]["tokens/trained_total"] < 300 <= lines[-1]["tokens/trained_total"]


def test_a_method_without_signal_is_an_outcome(
    model: Path, steps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # No group's rewards spread by so much: srl ends early, and its model is the starting one.
    words = tiny_words(steps, model, tmp_path / "run", "--min-reward-std", "0.999", "--max-flat-iterations", "2")
    assert run(["--methods", "srl", "--seeds", "1", *words]) == 0
    said = capsys.readouterr().out
    assert "srl: a stage ended early, as no group carried signal" in said
    assert "no control: give sft among the methods" in said
    found = read(tmp_path / "run" / "comparison.json")
    assert found["methods"][0]["endings"] == [["flat"]]
    assert [one["estimates"]["similarity"]["mean"] for one in found["differences"]] == [0.0]
    assert run(["--methods", "srl", "--seeds", "1", *words]) == 0
    assert "trained before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("own", "more", "message"),
    [
        (["--methods", "sft,ppo"], [], "found 'ppo' in 'sft,ppo'"),
        (["--methods", "sft+sft"], [], "chains of them such as sft\\+srl with each once"),
        (["--methods", "sft,sft"], [], "each method once"),
        (["--methods", "sft", "--seeds", "0"], [], "seeds must be a count of at least 1"),
        (["--methods", "sft,rlvr"], [], "acts on instances: say which with --instances FILE"),
        (["--methods", "sft"], ["--seed", "3"], "does not take --seed: give --seeds"),
        (["--methods", "sft"], ["--patience", "3"], "does not take --patience"),
        (["--methods", "sft"], ["--max-trained-tokens", "9"], "is the budget of --budget tokens"),
        (["--methods", "sft", "--budget", "tokens"], [], "needs the number of tokens"),
        (["--methods", "sft", "--stage-options", "sft.num_iterations=9"], [], "may not set num_iterations"),
        (
            ["--methods", "sft", "--stage-options", "sft.max-completion-tokens=9"],
            [],
            "may not set max_completion_tokens",
        ),
        (["--methods", "sft", "--stage-options", "ppo.loss=dapo"], [], "must look like rlvr.max-steps=10"),
        (["--methods", "sft+srl"], ["--num-iterations", "1"], "does not reach for a chain of 2 stages"),
    ],
)
def test_bad_input_is_said_before_anything_is_written(
    own: list[str], more: list[str], message: str, model: Path, steps: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run([*own, *tiny_words(steps, model, tmp_path / "run"), *more])
    assert not (tmp_path / "run").exists()


def test_data_and_folders_that_do_not_fit(model: Path, steps: Path, tmp_path: Path) -> None:
    bare = write_letters(tmp_path / "bare", num_held_out=0)
    with pytest.raises(ConfigError, match="has no validation part"):
        run(["--methods", "sft", *tiny_words(bare, model, tmp_path / "run")])
    with pytest.raises(ConfigError, match="the same budget for every method must be given"):
        run(["--methods", "sft", *tiny_words(steps, model, tmp_path / "run", iterations=None)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and holds no comparison"):
        run(["--methods", "sft", *tiny_words(steps, model, tmp_path / "full")])


def test_seeds_and_methods() -> None:
    assert (parse_seeds("3"), parse_seeds("4, 7"), parse_seeds("7,")) == ((0, 1, 2), (4, 7), (7,))
    for wrong in ("", "-1", "1,1", "a", "1,,2", "1.5"):
        with pytest.raises(ConfigError, match="seeds must be"):
            parse_seeds(wrong)
    assert parse_methods("sft, srl + rlvr") == ("sft", "srl+rlvr")
