"""What is graded, what is not graded again, and how a run stops; judges here are plain functions."""

import io
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from srl_swe.errors import ConfigError, ContainerError, DataError, EngineUnavailableError, MissingExtraError
from srl_swe.evaluation.places import Judge
from srl_swe.evaluation.record import read_record
from srl_swe.evaluation.report import Summary
from srl_swe.evaluation.results import harness_version
from srl_swe.evaluation.scheduler import EvaluationConfig
from srl_swe.files import sole_writer
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests, Prediction, Verdict
from tests.evaluation.judged import evaluate_with

INSTANCES = tuple(
    Instance(
        instance_id=f"i-{number}",
        repo="a/b",
        base_commit="",
        problem_statement="",
        environment=InstanceEnvironment(image="none"),
        tests=InstanceTests(script="", parser="parse_log_pytest", fail_to_pass=(), pass_to_pass=(), timeout_s=1.0),
        gold_patch="",
    )
    for number in range(4)
)


def predict(*patches: str) -> tuple[Prediction, ...]:
    return tuple(
        Prediction(instance_id=f"i-{number}", model_name_or_path="m", model_patch=patch)
        for number, patch in enumerate(patches)
    )


class Judged:
    """Judges by what the patch says, and remembers whom it judged."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        self.calls.append(instance.instance_id)
        say("judging")
        if patch == "broken\n":
            raise ContainerError("no room")
        if patch == "dead\n":
            raise EngineUnavailableError("gone")
        status = "resolved" if patch == "good\n" else "unresolved"
        return Verdict(instance_id=instance.instance_id, status=status, log=f"log of {patch}")  # type: ignore[arg-type]


def run(
    folder: Path,
    judge: Judge,
    predictions: tuple[Prediction, ...],
    *,
    instances: tuple[Instance, ...] = INSTANCES,
    check_alive: Callable[[], object] = lambda: None,
    stop_running: Callable[[], object] = lambda: None,
    retry_invalid: bool = True,
    regrade: bool = False,
    confirm: int = 1,
    output: io.StringIO | None = None,
) -> Summary:
    return evaluate_with(
        instances,
        predictions,
        EvaluationConfig(output=folder, retry_invalid=retry_invalid, regrade=regrade, confirm=confirm),
        judge=judge,
        check_alive=check_alive,
        stop_running=stop_running,
        console=Console(file=output or io.StringIO(), width=200),
    )


def test_a_verdict_is_never_made_twice(tmp_path: Path) -> None:
    judge = Judged()
    summary = run(tmp_path, judge, predict("good\n", "bad\n", "", "broken\n"))
    assert sorted(judge.calls) == ["i-0", "i-1", "i-3"]  # the empty patch costs nothing
    assert (summary.num_resolved, summary.num_unresolved, summary.num_empty_patch) == (1, 2, 1)
    assert summary.invalid == {"i-3": "ContainerError: no room"}
    judge.calls.clear()
    again = run(tmp_path, judge, predict("good\n", "bad\n", "", "broken\n"))
    assert judge.calls == ["i-3"]  # only the invalid one is tried again
    assert replace(again, wall_s=0.0) == replace(summary, wall_s=0.0)
    judge.calls.clear()
    run(tmp_path, judge, predict("good\n", "bad\n", "", "broken\n"), retry_invalid=False)
    assert judge.calls == []


def test_a_changed_patch_or_test_is_judged_again(tmp_path: Path) -> None:
    judge = Judged()
    run(tmp_path, judge, predict("bad\n", "bad\n"))
    judge.calls.clear()
    assert run(tmp_path, judge, predict("good\n", "bad\n")).num_resolved == 1
    assert judge.calls == ["i-0"]
    judge.calls.clear()
    changed = (replace(INSTANCES[0], tests=replace(INSTANCES[0].tests, script="exit 1")), *INSTANCES[1:])
    run(tmp_path, judge, predict("good\n", "bad\n"), instances=changed)
    assert judge.calls == ["i-0"]
    judge.calls.clear()
    # The first patch is known from before, whatever came between.
    assert run(tmp_path, judge, predict("bad\n", "bad\n")).num_resolved == 0
    assert judge.calls == []


def test_the_record_says_that_installations_were_left_out(tmp_path: Path) -> None:
    for skip, ending in ((False, ""), (True, ", without reinstalling")):
        judge = Judged()
        evaluate_with(
            [replace(each, tests=replace(each.tests, skip_reinstall=skip)) for each in INSTANCES],
            predict("good\n"),
            EvaluationConfig(output=tmp_path),
            judge=judge,
            check_alive=lambda: None,
            stop_running=lambda: None,
            console=Console(file=io.StringIO()),
        )
        assert judge.calls == ["i-0"], "verdicts of the other way are not taken"
        assert read_record(tmp_path).harness == harness_version() + ending


def test_regrading_forgets_what_was_found(tmp_path: Path) -> None:
    judge = Judged()
    run(tmp_path, judge, predict("good\n", "bad\n", ""), confirm=2)
    assert sorted(judge.calls) == ["i-0", "i-0", "i-1", "i-1"]
    judge.calls.clear()
    run(tmp_path, judge, predict("good\n", "bad\n", ""), confirm=2)
    assert judge.calls == []
    run(tmp_path, judge, predict("good\n", "bad\n", ""), regrade=True)
    assert sorted(judge.calls) == ["i-0", "i-1"]
    judge.calls.clear()
    summary = run(tmp_path, judge, predict("good\n", "bad\n", ""), confirm=2, regrade=True)
    assert sorted(judge.calls) == ["i-0", "i-0", "i-1", "i-1"]
    assert (summary.num_resolved, summary.num_unresolved) == (1, 2)


def test_unpredicted_instances_count_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    summary = run(tmp_path, Judged(), predict("good\n"))
    assert (summary.num_instances, summary.num_not_predicted, summary.resolve_rate) == (4, 3, 0.25)
    with pytest.raises(DataError, match="i-0"):
        run(tmp_path, Judged(), predict("good\n"), instances=INSTANCES[1:])


def test_a_lost_engine_stops_the_run_and_keeps_what_there_is(tmp_path: Path) -> None:
    alive = True

    def check_alive() -> None:
        if not alive:
            raise EngineUnavailableError("no engine answers")

    def judge(instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        nonlocal alive
        if instance.instance_id == "i-2":
            alive = False
        return Judged()(instance, patch, say)

    predictions = predict("good\n", "good\n", "dead\n", "dead\n")
    with pytest.raises(EngineUnavailableError, match=r"after \d verdicts.*run the same command again"):
        run(tmp_path, judge, predictions, check_alive=check_alive)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["num_resolved"] == 2
    assert summary["complete"] is False
    assert summary["num_invalid"] + summary["num_pending"] == 2
    second = Judged()
    run(tmp_path, second, predictions)
    assert sorted(second.calls) == ["i-2", "i-3"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_whatever_ends_a_run_stops_what_runs(tmp_path: Path, error: type[BaseException]) -> None:
    stopped: list[bool] = []

    def check_alive() -> None:
        if error is KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
        else:
            (tmp_path / "results" / "i-3").write_text("in the way")

    output = io.StringIO()
    with pytest.raises(error):
        run(
            tmp_path,
            Judged(),
            predict("good\n", "good\n", "good\n", "broken\n"),
            check_alive=check_alive,
            stop_running=lambda: stopped.append(True),
            output=output,
        )
    assert stopped
    assert "run the same command again to go on" in output.getvalue()
    assert (tmp_path / "report.json").is_file()


def test_a_missing_package_is_no_verdict(tmp_path: Path) -> None:
    def judge(instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        raise MissingExtraError("pip install 'srl-swe[eval]'")

    with pytest.raises(MissingExtraError):
        run(tmp_path, judge, predict("good\n"))
    assert not (tmp_path / "results" / "i-0").exists()


def test_one_writer_per_folder(tmp_path: Path) -> None:
    with sole_writer(tmp_path), pytest.raises(ConfigError, match="another process is writing there"):
        run(tmp_path, Judged(), predict("good\n"))


def test_progress_lines_hold_no_control_characters(tmp_path: Path) -> None:
    def judge(instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        return Verdict(instance_id=instance.instance_id, status="invalid", reason="\x1b[2J[red]gone\n")

    output = io.StringIO()
    run(tmp_path, judge, predict("good\n"), output=output)
    assert "i-0: invalid ( [2J[red]gone )" in output.getvalue()
    assert "\x1b" not in output.getvalue()


@pytest.mark.parametrize("field", ["max_parallel", "image_limit_s", "grace_s"])
def test_config_ranges(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        EvaluationConfig(output=Path("x"), **{field: 0})  # type: ignore[arg-type]
