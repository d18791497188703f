"""Grading in real containers, and kills in the middle of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL
from srl_swe.evaluation.controls import empty_predictions, gold_predictions, reversed_predictions
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate
from srl_swe.types import Prediction
from tests.evaluation.conftest import TINY, own_containers, slow, tiny_instances

pytestmark = pytest.mark.docker

RUN = """\
import sys
from pathlib import Path
from srl_swe.environments.connect import connect_engine
from srl_swe.environments.engine import Engine
from srl_swe.evaluation.controls import gold_predictions
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate
from tests.evaluation.conftest import slow, tiny_instances

instances = tuple(slow(instance, 1.5) for instance in tiny_instances(6))
config = EvaluationConfig(output=Path(sys.argv[1]), max_parallel=2)
print("ready", flush=True)
with connect_engine() as engine:
    summary = evaluate(instances, gold_predictions(instances), config, engine=engine)
print("resolved", summary.num_resolved)
"""


def start_run(folder: Path) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def containers_of(engine: Engine, pid: int) -> list[str]:
    return [row.id for row in engine.list_containers(LABEL) if row.labels.get("srl_swe.pid") == str(pid)]


def wait_for_results(folder: Path, count: int, process: "subprocess.Popen[str]") -> Sequence[Path]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = sorted((folder / "results").glob("*/*.json"))
        if len(found) >= count:
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{count} results did not appear within 60 s")


def test_gold_resolves_and_the_controls_do_not(tmp_path: Path, tiny_engine: Engine) -> None:
    instances = tiny_instances(3)
    rates = {}
    for predictions in (gold_predictions(instances), reversed_predictions(instances), empty_predictions(instances)):
        model = predictions[0].model_name_or_path
        summary = evaluate(instances, predictions, EvaluationConfig(output=tmp_path / model), engine=tiny_engine)
        rates[model] = summary.resolve_rate
        assert summary.complete
    assert rates == {"gold": 1.0, "gold-reversed": 0.0, "empty": 0.0}
    assert own_containers(tiny_engine) == set()
    log = next((tmp_path / "gold" / "results").glob("*/*.log")).read_text()
    assert "PASSED test_calc.py::test_add" in log


def test_a_missing_image_is_invalid_and_alone(tmp_path: Path, tiny_engine: Engine) -> None:
    lost = replace(TINY, instance_id="lost", environment=replace(TINY.environment, image="127.0.0.1:9/no/such:1"))
    instances = (lost, *tiny_instances(2))
    config = EvaluationConfig(output=tmp_path)
    summary = evaluate(instances, gold_predictions(instances), config, engine=tiny_engine)
    assert summary.num_resolved == 2
    assert list(summary.invalid) == ["lost"]
    assert "127.0.0.1:9/no/such:1" in summary.invalid["lost"]
    assert json.loads((tmp_path / "report.json").read_text())["error_ids"] == ["lost"]


def test_tests_that_sleep_for_ever_end_at_their_limit(tmp_path: Path, tiny_engine: Engine) -> None:
    sleeper = slow(TINY, 3600)
    sleeper = replace(sleeper, tests=replace(sleeper.tests, timeout_s=1.0))
    config = EvaluationConfig(output=tmp_path)
    started = time.monotonic()
    summary = evaluate([sleeper], gold_predictions([sleeper]), config, engine=tiny_engine)
    assert time.monotonic() - started < 30
    assert summary.unresolved_reasons == {"timeout": 1}


def test_a_patch_that_does_not_apply_is_unresolved(tmp_path: Path, tiny_engine: Engine) -> None:
    patch = "diff --git a/none.py b/none.py\n--- a/none.py\n+++ b/none.py\n@@ -1 +1 @@\n-x\n+y\n"
    prediction = Prediction(instance_id=TINY.instance_id, model_name_or_path="m", model_patch=patch)
    summary = evaluate([TINY], [prediction], EvaluationConfig(output=tmp_path), engine=tiny_engine)
    assert summary.unresolved_reasons == {"patch does not apply": 1}


def test_kill_9_and_run_again(tmp_path: Path, tiny_engine: Engine) -> None:
    first = start_run(tmp_path)
    try:
        wait_for_results(tmp_path, 2, first)
        first.kill()
        first.wait(10)
    finally:
        first.kill()
        first.communicate()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*/*.json")}
    assert 2 <= len(kept) < 6
    second = start_run(tmp_path)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "resolved 6" in out
    assert f"6 instances, {len(kept)} of them done before" in err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert containers_of(tiny_engine, first.pid) == []
    assert containers_of(tiny_engine, second.pid) == []


def test_ctrl_c_leaves_no_container(tmp_path: Path, tiny_engine: Engine) -> None:
    process = start_run(tmp_path)
    wait_for_results(tmp_path, 1, process)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert process.returncode != 0
    assert "run the same command again to go on" in err
    assert containers_of(tiny_engine, process.pid) == []
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["num_resolved"] >= 1
    assert summary["num_pending"] >= 3
    assert summary["num_invalid"] == 0
