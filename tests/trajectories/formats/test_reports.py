"""Verdicts beside trajectories, looked up again after an evaluation has written them."""

import json
from pathlib import Path

from srl_swe.trajectories.formats.reports import resolved_by_report


def test_a_report_that_comes_or_changes_later_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "trajectories" / "o__n-1.traj.json"
    file.parent.mkdir()
    report = tmp_path / "report.json"
    assert resolved_by_report(file, "o__n-1") is None
    report.write_text(json.dumps({"resolved_ids": []}))
    assert resolved_by_report(file, "o__n-1") is False
    report.write_text(json.dumps({"resolved_ids": ["o__n-1"]}))
    assert resolved_by_report(file, "o__n-1") is True
