"""Several predictions of each instance: read apart, graded apart, and one estimate over all."""

import json
from pathlib import Path

import pytest

from srl_swe.cli.eval import run as run_eval
from srl_swe.cli.eval.evaluate import EvalConfig
from srl_swe.environments.engine import Engine
from srl_swe.errors import ConfigError, DataError
from srl_swe.evaluation.predictions import read_samples
from srl_swe.evaluation.record import read_record
from tests.evaluation.conftest import GOLD_PATCH, tiny_instances, write_rows


def write_predictions(path: Path, *rows: tuple[str, str]) -> Path:
    lines = [json.dumps({"instance_id": name, "model_name_or_path": "m", "model_patch": patch}) for name, patch in rows]
    path.write_text("\n".join(lines))
    return path


def test_samples_are_told_apart_by_their_order(tmp_path: Path) -> None:
    path = write_predictions(tmp_path / "p.jsonl", ("a", "1"), ("b", "2"), ("a", "3"), ("b", "2"))
    first, second = read_samples(path, 2)
    assert [(each.instance_id, each.model_patch) for each in first] == [("a", "1\n"), ("b", "2\n")]
    assert [(each.instance_id, each.model_patch) for each in second] == [("a", "3\n"), ("b", "2\n")]


def test_wrong_numbers_of_samples(tmp_path: Path) -> None:
    path = write_predictions(tmp_path / "p.jsonl", ("a", "1"), ("b", "2"), ("a", "3"))
    with pytest.raises(DataError, match=r"instance 'b' has 1 predictions, expected 2 \(--samples\)"):
        read_samples(path, 2)
    with pytest.raises(DataError, match="say how many there are of each instance with --samples"):
        read_samples(path, 1)
    with pytest.raises(ConfigError, match="samples = 2: must be at least 1, and more need --model or --predictions"):
        EvalConfig(instances=Path("x.jsonl"), gold=True, samples=2)


@pytest.mark.docker
def test_a_part_of_a_file_of_predictions(
    tmp_path: Path, tiny_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", tiny_instances(4))
    names = [f"tiny__calc-{number}" for number in range(4)]
    path = write_predictions(tmp_path / "p.jsonl", *((name, GOLD_PATCH) for name in names[:3]))
    asked = ["--instances", str(rows), "--predictions", str(path), "--slice", "2:", "--output", str(tmp_path / "out")]
    assert run_eval(asked) == 0
    assert "2 of 3 predictions are for instances that were not chosen: left out" in capsys.readouterr().out
    found = [(each.instance_id, each.outcome) for each in read_record(tmp_path / "out").instances]
    assert found == [(names[2], "resolved"), (names[3], "not predicted")]
    write_predictions(path, *((name, GOLD_PATCH) for name in (*names, "another__set-1")))
    with pytest.raises(DataError, match="another__set-1"):
        run_eval(asked)


@pytest.mark.docker
def test_pass_at_k_from_the_command_line(
    tmp_path: Path, tiny_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", tiny_instances(4))
    names = [f"tiny__calc-{number}" for number in range(4)]
    # The first instance is resolved by both samples, the second by one of them, the third by none, the fourth has none.
    patches = (GOLD_PATCH, GOLD_PATCH, ""), (GOLD_PATCH, "", "")
    predictions = [(name, patch) for sample in patches for name, patch in zip(names[:3], sample, strict=True)]
    path = write_predictions(tmp_path / "p.jsonl", *predictions)
    out = tmp_path / "out"
    asked = ["--instances", str(rows), "--predictions", str(path), "--samples", "2", "--output", str(out)]
    assert run_eval(asked) == 0
    shown = capsys.readouterr().out
    # pass@1 = (1 + 1/2 + 0 + 0) / 4, pass@2 = (1 + 1 + 0 + 0) / 4.
    assert "pass@1: 37.5 % (95 % " in shown
    assert "pass@2: 50.0 %" in shown
    assert json.loads((out / "samples.json").read_text())["pass_at_k"] == {"1": 0.375, "2": 0.5}
    assert (out / "sample-2" / "report.html").is_file()
    assert "sample-2/pages/tiny__calc-1.html" in (out / "report.html").read_text("utf-8")
    before = {file: file.stat().st_mtime_ns for file in out.rglob("results/*/*.json")}
    assert len(before) == 6
    assert run_eval(asked) == 0
    assert {file: file.stat().st_mtime_ns for file in out.rglob("results/*/*.json")} == before
