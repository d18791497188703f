"""`--gold` on tiny instances in containers: those whose own gold patch fails are listed, and can be left out."""

from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.environments.engine import Engine
from srl_swe.evaluation.controls import gold_predictions
from srl_swe.evaluation.gold_failures import find_gold_failures
from srl_swe.evaluation.record import EvaluationRecord, InstanceOutcome, read_record
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate
from srl_swe.types import Instance
from tests.evaluation.conftest import TINY, tiny_instances

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
