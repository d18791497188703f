"""The report: figures worked out by hand, and the official harness's own report on the same outcomes."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from srl_swe.evaluation.report import Summary, official_report, summarize, summary_table, write_reports
from srl_swe.evaluation.statistics import wilson_interval
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests, Prediction, Verdict, VerdictStatus

NAMES = ("resolved", "failed", "unapplied", "slow", "empty", "broken", "pending", "missing", "unstarted")


def make_instance(instance_id: str) -> Instance:
    return Instance(
        instance_id=instance_id,
        repo="a/b",
        base_commit="",
        problem_statement="",
        environment=InstanceEnvironment(image="none"),
        tests=InstanceTests(script="", parser="parse_log_pytest", fail_to_pass=(), pass_to_pass=()),
        gold_patch="",
    )


def make_verdict(instance_id: str, status: VerdictStatus, reason: str = "", duration_s: float = 0.0) -> Verdict:
    return Verdict(instance_id=instance_id, status=status, reason=reason, duration_s=duration_s)


INSTANCES = tuple(make_instance(name) for name in NAMES)
PREDICTIONS = tuple(
    Prediction(instance_id=name, model_name_or_path="[red]m", model_patch="" if name == "empty" else "diff\n")
    for name in NAMES[:7]
)
VERDICTS = {
    verdict.instance_id: verdict
    for verdict in (
        make_verdict("resolved", "resolved", duration_s=2.0),
        make_verdict("failed", "unresolved", "tests", 4.0),
        make_verdict("unapplied", "unresolved", "patch does not apply", 1.0),
        make_verdict("slow", "unresolved", "timeout", 9.0),
        make_verdict("empty", "unresolved", "empty patch"),
        make_verdict("broken", "invalid", "ImageError: no image"),
    )
}


def make_summary() -> Summary:
    invalid = {"unstarted": "ContainerError: no room"}
    return summarize(INSTANCES, PREDICTIONS, VERDICTS, invalid_episodes=invalid, wall_s=3.0)


def test_every_instance_is_counted_once() -> None:
    summary = make_summary()
    assert (summary.num_resolved, summary.num_unresolved, summary.num_empty_patch) == (1, 4, 1)
    assert (summary.num_invalid, summary.num_not_predicted, summary.num_pending) == (2, 1, 1)
    parts = summary.num_resolved + summary.num_unresolved + summary.num_invalid
    assert parts + summary.num_not_predicted + summary.num_pending == summary.num_instances == 9
    assert summary.resolve_rate == pytest.approx(1 / 9)
    assert summary.invalid == {"broken": "ImageError: no image", "unstarted": "ContainerError: no room"}
    assert summary.pending_ids == ("pending",)
    assert summary.unresolved_reasons == {"empty patch": 1, "patch does not apply": 1, "tests": 1, "timeout": 1}
    assert (summary.median_instance_s, summary.max_instance_s) == (3.0, 9.0)
    assert not summary.complete


@pytest.mark.parametrize(
    ("resolved", "asked", "low", "high"),
    # (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964, worked out by hand.
    [(0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (5, 10, 0.236593, 0.763407), (43, 500, 0.064480, 0.113820)],
)
def test_wilson_interval(resolved: int, asked: int, low: float, high: float) -> None:
    assert wilson_interval(resolved, asked) == pytest.approx((low, high), abs=2e-5)


def test_nothing_asked_for() -> None:
    summary = summarize((), (), {}, invalid_episodes={}, wall_s=0.0)
    assert (summary.resolve_rate, summary.resolve_rate_low, summary.resolve_rate_high) == (0.0, 0.0, 1.0)


def test_equals_the_official_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out the official harness's own result files for these outcomes and let it count them."""
    monkeypatch.chdir(tmp_path)
    reporting = pytest.importorskip("swebench.harness.reporting", reason="swebench is not installed")
    for name, resolved in (("resolved", True), ("failed", False)):
        folder = reporting.RUN_EVALUATION_LOG_DIR / "run" / "[red]m" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps({name: {"resolved": resolved}}))
    rows = [{"instance_id": name} for name in NAMES]
    predictions = {
        prediction.instance_id: {
            "instance_id": prediction.instance_id,
            "model_name_or_path": prediction.model_name_or_path,
            "model_patch": prediction.model_patch,
        }
        for prediction in PREDICTIONS
    }
    path = reporting.make_run_report(predictions, rows, "run", report_dir=str(tmp_path / "official"))
    theirs: dict[str, Any] = json.loads(Path(path).read_text())
    ours = official_report(INSTANCES, PREDICTIONS, VERDICTS)
    # It finds infrastructure failures by reading logs, we know them.
    for key in ("infra_failure_instances", "infra_failure_ids", "failure_reasons"):
        assert key in theirs
        del theirs[key]
    assert ours.pop("infra_failure_ids") == ["broken"]
    assert ours.pop("infra_failure_instances") == 1
    assert ours.pop("failure_reasons") == {"broken": "ImageError: no image"}
    assert ours == theirs


def test_files_and_table(tmp_path: Path) -> None:
    summary = make_summary()
    write_reports(tmp_path, official_report(INSTANCES, PREDICTIONS, VERDICTS), summary)
    assert json.loads((tmp_path / "report.json").read_text())["resolved_ids"] == ["resolved"]
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["schema_version"] == 1
    assert record["complete"] is False
    assert record["num_invalid"] == 2
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    console.print(summary_table([summary]))
    text = console.export_text()
    assert "[red]m" in text
    assert "1/9" in text
    assert "11.1 (2.0-43.5)" in text
    assert "unresolved" in text
