"""`--gold` on tiny instances in containers: those whose own gold patch fails are listed, and can be left out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.cli.eval import run as run_eval
from srl_swe.environments.engine import Engine
from srl_swe.evaluation.controls import gold_predictions
from srl_swe.evaluation.gold_failures import find_gold_failures
from srl_swe.evaluation.record import EvaluationRecord, InstanceOutcome, read_record
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate
from srl_swe.types import Instance
from tests.evaluation.conftest import TINY, tiny_instances, write_rows

pytestmark = pytest.mark.docker

SOUND, WRONG, UNAPPLIED, ABSENT, NO_IMAGE = tiny_instances(5)
BROKEN: tuple[Instance, ...] = (
    SOUND,
    replace(WRONG, gold_patch=TINY.gold_patch.replace("a + b", "a * b")),
    replace(UNAPPLIED, gold_patch=TINY.gold_patch.replace("a - b", "a / b")),
    replace(ABSENT, tests=replace(ABSENT.tests, pass_to_pass=("test_calc.py::test_zero", "test_calc.py::test_none"))),
    replace(NO_IMAGE, environment=replace(NO_IMAGE.environment, image="localhost:1/srl-swe/absent:1")),
)


def test_failures_are_told_with_their_tests(tmp_path: Path, tiny_engine: Engine) -> None:
    evaluate(BROKEN, gold_predictions(BROKEN), EvaluationConfig(output=tmp_path), engine=tiny_engine)
    failures, unknown = find_gold_failures(tmp_path, read_record(tmp_path), BROKEN)
    assert [(each.instance_id, each.reason, each.tests) for each in failures] == [
        ("tiny__calc-1", "tests", {"test_calc.py::test_add": "FAILED", "test_calc.py::test_zero": "FAILED"}),
        ("tiny__calc-2", "patch does not apply", {}),
        ("tiny__calc-3", "tests", {"test_calc.py::test_none": "absent"}),
    ]
    assert unknown == ("tiny__calc-4",)  # its image cannot be had: nothing is known of its gold patch


def test_the_list_can_be_left_out(tmp_path: Path, tiny_engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", BROKEN[:3])
    gold = tmp_path / "gold"
    assert run_eval(["--instances", str(rows), "--gold", "--confirm", "2", "--output", str(gold)]) == 0
    shown = capsys.readouterr().out
    assert "no verdict differs between 2 gradings" in shown
    assert "gold patches that do not pass here: 2 of 3" in shown
    assert "tiny__calc-2: resolved in 0 of 2 gradings" in shown
    content = json.loads((gold / "gold-failures.json").read_text())
    assert (content["num_instances"], content["num_sound"], content["unknown"]) == (3, 1, [])
    assert [failure["reason"] for failure in content["failures"]] == ["tests", "patch does not apply"]
    ids = gold / "gold-failures.txt"
    assert ids.read_text() == "tiny__calc-1\ntiny__calc-2\n"
    rest = tmp_path / "rest"
    assert run_eval(["--instances", str(rows), "--gold", "--exclude-ids", f"@{ids}", "--output", str(rest)]) == 0
    record = read_record(rest)
    assert [each.instance_id for each in record.instances] == ["tiny__calc-0"]
    assert record.choice == "--exclude-ids tiny__calc-1 tiny__calc-2"


def test_a_gold_patch_that_fails_once_is_listed() -> None:
    outcome = InstanceOutcome(
        instance_id=SOUND.instance_id,
        repo="tiny/calc",
        row="x",
        outcome="resolved",
        gradings=("resolved", "unresolved"),
        unstable_tests=("test_a",),
    )
    record = EvaluationRecord(split="", model="gold", harness="h", wall_s=0.0, instances=(outcome,))
    ((failure,), unknown) = find_gold_failures(Path("nowhere"), record, (SOUND,))
    assert (failure.reason, failure.gradings) == ("flaky", "resolved in 1 of 2 gradings")
    assert failure.tests == {"test_a": "not the same in all gradings"}
    assert unknown == ()
