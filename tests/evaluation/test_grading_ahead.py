"""Predictions are graded while other episodes are still played."""

import json
from pathlib import Path

import pytest

from srl_swe.cli.eval.evaluate import run as run_eval
from srl_swe.environments.engine import Engine
from srl_swe.evaluation.record import read_record
from tests.evaluation.conftest import own_containers, tiny_instances, write_rows

pytestmark = pytest.mark.docker

AGENT = """\
import pathlib, time

class Agent:
    def act(self, environment):
        environment.run("sed -i 's/a - b/a + b/' calc.py")
        if environment.instance_id != "tiny__calc-0":
            return
        deadline = time.monotonic() + 60
        while not list(pathlib.Path("out/results").glob("tiny__calc-1/*.json")):
            if time.monotonic() > deadline:
                raise RuntimeError("the other prediction is not graded yet")
            time.sleep(0.05)
"""


def test_no_episode_waits_for_a_grading_nor_the_other_way_round(
    tmp_path: Path, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", tiny_instances(2))
    (tmp_path / "waits.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    assert run_eval(["--instances", str(rows), "--agent", "waits:Agent", "--output", "out"]) == 0
    record = read_record(tmp_path / "out")
    assert [each.outcome for each in record.instances] == ["resolved"] * 2
    episodes = [json.loads(path.read_text()) for path in (tmp_path / "out" / "trajectories").iterdir()]
    assert [episode["info"]["srl_swe"]["exit_status"] for episode in episodes] == ["submitted"] * 2
    assert own_containers(tiny_engine) == set()
