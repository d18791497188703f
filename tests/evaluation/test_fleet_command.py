"""`srl-swe eval` with several engines: its options, and Ray on this machine until Ctrl-C."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from srl_swe.cli.eval.evaluate import EvalConfig
from srl_swe.cli.eval.fleet import FleetOptions, opened_fleet
from srl_swe.cli.image_options import RunImageOptions
from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL
from srl_swe.errors import ConfigError, EngineUnavailableError
from tests.evaluation.conftest import slow, tiny_instances, write_rows

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"executor": "ray", "engines": "tcp://a:1"}, "each node has its own engine"),
        ({"ray_address": "auto"}, "give --executor ray"),
        ({"ray_resource": "engine"}, "give --executor ray"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        FleetOptions(**options)  # type: ignore[arg-type]


def test_a_budget_is_for_the_engine_of_this_machine() -> None:
    images, fleet = RunImageOptions(disk_budget="1GB"), FleetOptions(engines="tcp://a:1")
    with pytest.raises(ConfigError, match="the one engine of this machine"):
        EvalConfig(instances=Path("rows.jsonl"), gold=True, images=images, fleet=fleet)


def test_no_engine_at_all_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    options = FleetOptions(engines="tcp://127.0.0.1:9,tcp://127.0.0.1:10")
    opened = opened_fleet(options, RunImageOptions(), (), max_parallel=1)
    with pytest.raises(EngineUnavailableError, match="none of the engines"), opened:
        pass
    assert caplog.text.count("does not take part") == 2


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="srl-ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.docker
def test_ray_here_until_ctrl_c(tmp_path: Path, tiny_engine: Engine, ray_folder: Path) -> None:
    rows = write_rows(
        tmp_path / "rows.jsonl", [slow(instance, number) for number, instance in enumerate(tiny_instances(4))]
    )
    command = [sys.executable, "-m", "srl_swe.cli.main", "eval", "--gold", "--instances", str(rows)]
    run = subprocess.Popen(
        [*command, "--output", str(tmp_path / "out"), "--executor", "ray", "--max-parallel", "2"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_TMPDIR": str(ray_folder),
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 100
        while not list((tmp_path / "out" / "results").glob("*/*.json")):
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        family = {each.pid for each in psutil.Process(run.pid).children(recursive=True)}
        sockets = [each for each in psutil.net_connections("inet") if each.pid in family and each.status == "LISTEN"]
        addresses = {each.laddr.ip.removeprefix("::ffff:") for each in sockets}
        assert addresses <= {"127.0.0.1", "::1"}
        assert addresses, "Ray listens on nothing, so this shows nothing"
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
        assert run.returncode == 130
        assert "the same command goes on" in said
        left = [row for row in tiny_engine.list_containers(LABEL) if row.labels["srl_swe.pid"] in map(str, family)]
        assert left == []
        assert not any(psutil.pid_exists(pid) for pid in family)
    finally:
        run.kill()
        run.communicate()
