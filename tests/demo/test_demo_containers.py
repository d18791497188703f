"""The data half of the demo in real containers: proven bugs, an expert whose patches resolve them, compiled steps."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from srl_swe.demo import instances as demo_instances
from srl_swe.demo.instances import Repair, candidate_counts, make_instances
from srl_swe.demo.packages import TOOLZ
from srl_swe.demo.recording import record_expert
from srl_swe.environments.connect import connect_engine
from srl_swe.environments.instances import load_instances
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate
from srl_swe.trajectories.formats import DropCounter, read_trajectories

pytestmark = pytest.mark.docker


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bugs_are_proven_repaired_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO())
    with connect_engine() as engine:
        path = make_instances(engine, tmp_path, [TOOLZ], num_instances=2, seed=0, notify=lambda _: None)
        rows = lines(path)
        assert len(rows) == 2
        counts = candidate_counts(tmp_path)
        assert sum(count for (_, outcome), count in counts.items() if outcome == "kept") == 2

        # What was tried is not tried again, a line that a kill cut off is.
        log = tmp_path / "candidates-toolz.jsonl"
        tried = log.read_text()
        log.write_text(tried + tried.splitlines()[0][:40])
        path.unlink()
        with monkeypatch.context() as patched:
            patched.setattr(demo_instances, "ProvingContainer", None)
            make_instances(engine, tmp_path, [TOOLZ], num_instances=2, seed=0, notify=lambda _: None)
        assert lines(path) == rows
        assert log.read_text() == tried

        instances = load_instances(path)
        repairs = {str(row["instance_id"]): Repair(**row["repair"]) for row in rows}  # type: ignore[arg-type]
        folder = tmp_path / "expert"
        predictions = record_expert(instances, repairs, folder, max_parallel=2, console=console)
        assert {prediction.instance_id for prediction in predictions} == {row["instance_id"] for row in rows}
        evaluation = EvaluationConfig(output=folder, max_parallel=2)
        summary = evaluate(instances, predictions, evaluation, engine=engine, console=console)
    assert summary.num_resolved == 2
    drops = DropCounter()
    trajectories = list(read_trajectories([folder / "trajectories"], drops=drops))
    assert [trajectory.resolved for trajectory in trajectories] == [True, True]
    assert drops.total == 0
    for trajectory in trajectories:
        statement = next(row["problem_statement"] for row in rows if row["instance_id"] == trajectory.instance_id)
        assert trajectory.problem_statement == statement
        assert trajectory.steps[-1].action == "submit"
        assert all(step.thought for step in trajectory.steps)
    assert record_expert(instances, repairs, folder, max_parallel=2, console=console) == predictions
