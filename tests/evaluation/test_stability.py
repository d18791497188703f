"""The same patch graded several times: what counts, what is told, and what is not graded again."""

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from srl_swe.environments.engine import Engine
from srl_swe.errors import ConfigError, ContainerError
from srl_swe.evaluation.controls import gold_predictions
from srl_swe.evaluation.gold_failures import find_gold_failures
from srl_swe.evaluation.record import InstanceOutcome, read_record
from srl_swe.evaluation.report import Summary
from srl_swe.evaluation.report_pages import make_pages
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate
from srl_swe.evaluation.stability import MAX_TESTS, how_often, stability
from srl_swe.types import Instance, Prediction, Verdict
from tests.evaluation.conftest import TINY
from tests.evaluation.judged import evaluate_with
from tests.evaluation.test_report import make_instance
from tests.strict_page import text_of

NAMES = ("steady", "flaky", "wobbly", "broken", "lost", "empty")
INSTANCES = tuple(make_instance(name) for name in NAMES)
PREDICTIONS = tuple(
    Prediction(instance_id=name, model_name_or_path="m", model_patch="" if name == "empty" else "diff\n")
    for name in NAMES
)


class Grader:
    """Judges by the instance's name and by how often it judged it before."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __call__(self, instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        name = instance.instance_id
        self.calls[name] += 1
        number = self.calls[name]
        if name == "broken" or (name == "lost" and number == 2):
            raise ContainerError("no room")
        failed = name == "flaky" and number > 1
        tests = {"test_a": "FAILED" if failed else "PASSED", "test_b": "PASSED"}
        if name == "wobbly" and number == 3:
            tests["test_extra"] = "FAILED"  # one that the verdict does not depend on
        return Verdict(
            instance_id=name,
            status="unresolved" if failed else "resolved",
            reason="tests" if failed else "",
            test_status=tests,
            log=f"{name}, grading {number}",
            duration_s=1.0,
        )


def run(folder: Path, judge: Grader, confirm: int) -> Summary:
    return evaluate_with(
        INSTANCES,
        PREDICTIONS,
        EvaluationConfig(output=folder, confirm=confirm, max_parallel=1),
        judge=judge,
        check_alive=lambda: None,
        stop_running=lambda: None,
        console=Console(file=io.StringIO()),
    )


def test_the_first_grading_counts_and_the_others_are_told(tmp_path: Path) -> None:
    judge = Grader()
    summary = run(tmp_path, judge, confirm=3)
    assert judge.calls == {"steady": 3, "flaky": 3, "wobbly": 3, "broken": 1, "lost": 3}
    assert (summary.num_resolved, summary.num_invalid) == (4, 1)
    assert summary.flaky == {"flaky": "resolved in 1 of 3 gradings"}
    assert json.loads((tmp_path / "summary.json").read_text())["flaky"] == summary.flaky
    found = {each.instance_id: each for each in read_record(tmp_path).instances}
    assert found["flaky"].gradings == ("resolved", "unresolved", "unresolved")
    assert (found["flaky"].outcome, found["flaky"].flaky) == ("resolved", True)
    assert found["flaky"].unstable_tests == ("test_a",)
    assert (found["wobbly"].flaky, found["wobbly"].unstable_tests) == (False, ("test_extra",))
    assert (found["lost"].gradings, found["lost"].flaky) == (("resolved", "invalid", "resolved"), False)
    assert found["steady"].gradings == ("resolved",) * 3
    assert [found[name].gradings for name in ("broken", "empty")] == [(), ()]


def test_what_was_graded_is_not_graded_again(tmp_path: Path) -> None:
    once = run(tmp_path, Grader(), confirm=1)
    assert once.flaky == {}
    judge = Grader()
    judge.calls.update(dict.fromkeys(NAMES, 1))
    twice = run(tmp_path, judge, confirm=2)
    # One more grading of each, and the one that had failed with the infrastructure again.
    assert judge.calls - Counter(NAMES) == {"steady": 1, "flaky": 1, "wobbly": 1, "broken": 1, "lost": 1}
    assert twice.flaky == {"flaky": "resolved in 1 of 2 gradings"}
    judge.calls.clear()
    judge.calls.update({"lost": 5})
    again = run(tmp_path, judge, confirm=2)
    assert judge.calls == {"broken": 1, "lost": 6}
    assert again.flaky == twice.flaky
    assert run(tmp_path, judge, confirm=1).flaky == {}


def test_every_grading_has_its_own_log(tmp_path: Path) -> None:
    run(tmp_path, Grader(), confirm=2)
    logs = sorted((tmp_path / "results" / "steady").glob("*.log"), key=lambda path: len(path.name))
    assert [path.read_text() for path in logs] == ["steady, grading 1", "steady, grading 2"]


def test_the_pages_tell(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    run(tmp_path, Grader(), confirm=2)
    make_pages(tmp_path)
    links = [f"pages/{name}.html" for name in NAMES]
    text = text_of((tmp_path / "report.html").read_text("utf-8"), links)
    assert "flaky, of those graded again 1 / 4" in text
    assert "flaky resolved in 1 of 2 gradings test_a" in text
    text = text_of((tmp_path / "pages" / "flaky.html").read_text("utf-8"), ["../report.html"])
    assert "Graded 2 times: resolved, unresolved. Tests that did not do the same each time 1 test_a" in text


def test_many_tests_are_cut() -> None:
    def verdict(outcome: str) -> Verdict:
        return Verdict(
            instance_id="i", status="resolved", test_status={f"t{number:04}": outcome for number in range(900)}
        )

    unstable = stability([verdict("PASSED"), verdict("FAILED")]).tests
    assert unstable == tuple(f"t{number:04}" for number in range(MAX_TESTS))
    assert stability([verdict("PASSED")]).statuses == ()


def test_words() -> None:
    assert how_often(("unresolved", "invalid", "resolved")) == "resolved in 1 of 2 gradings, 1 more were invalid"
    outcome = InstanceOutcome(instance_id="i", repo="r", row="x", outcome="resolved", gradings=("resolved", "invalid"))
    assert not outcome.flaky
    with pytest.raises(ConfigError, match="confirm must be at least 1, not 0"):
        EvaluationConfig(output=Path("x"), confirm=0)


@pytest.mark.docker
@pytest.mark.slow
def test_a_coin_flip_is_found_in_containers(tmp_path: Path, tiny_engine: Engine) -> None:
    flip = "python3 -c \"import os; print(('FAILED', 'PASSED')[os.urandom(1)[0] % 2], 'test_calc.py::test_coin')\""
    script = TINY.tests.script.replace("echo '>>>>> End", f"{flip}\necho '>>>>> End")
    kept = ("test_calc.py::test_zero", "test_calc.py::test_coin")
    coin = replace(TINY, tests=replace(TINY.tests, script=script, pass_to_pass=kept))
    config = EvaluationConfig(output=tmp_path, confirm=18)  # alike once in 131,072 times
    summary = evaluate([coin], gold_predictions([coin]), config, engine=tiny_engine)
    (found,) = read_record(tmp_path).instances
    assert found.flaky
    assert found.unstable_tests == ("test_calc.py::test_coin",)
    num_resolved = found.gradings.count("resolved")
    assert 0 < num_resolved < 18 == len(found.gradings)
    assert summary.flaky == {coin.instance_id: f"resolved in {num_resolved} of 18 gradings"}
    assert summary.num_resolved == (found.gradings[0] == "resolved")
    ((failure,), _) = find_gold_failures(tmp_path, read_record(tmp_path), [coin])
    assert list(failure.tests) == ["test_calc.py::test_coin"]
