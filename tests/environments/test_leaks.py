"""Whatever dies, and whenever: after the next start nothing is left, and a dead engine is never an observation."""

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docker.client import DockerClient

from srl_swe.environments.docker_engine import DockerEngine, engine_errors
from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL, collect_garbage, is_abandoned, lease_label, owner_labels
from srl_swe.environments.swe_env import SWEEnv
from srl_swe.errors import ContainerError, EngineTimeoutError, EngineUnavailableError
from srl_swe.types import Instance
from tests.environments.conftest import make_image, plain_instance, remove_prepared
from tests.environments.engines import load_base_image, variables_of

pytestmark = pytest.mark.docker
IMAGE = "srl-swe/test-leaks:latest"


@pytest.fixture(scope="module")
def instance(engine: Engine) -> Iterator[Instance]:
    yield _make_instance(engine)
    remove_prepared(engine, IMAGE)


def _make_instance(engine: Engine) -> Instance:
    make_image(engine, IMAGE)
    return plain_instance(IMAGE)


# Everything that makes containers and images, over and over, so that a signal hits any of it.
OWNER = """
import pickle, sys
from srl_swe.environments.swe_env import SWEEnv
env = SWEEnv([pickle.load(sys.stdin.buffer)], grade=False)
print("begun", flush=True)
while True:
    env.reset()
    env.step("sleep 600 & echo x >file")
    for fork in env.fork(2):
        fork.step("sleep 0.05")
        fork.close()
    env.step("submit")
"""
ENDS = {
    "kill -9": (signal.SIGKILL,),
    "terminate": (signal.SIGTERM,),
    "Ctrl-C": (signal.SIGINT,),
    "Ctrl-C twice": (signal.SIGINT, signal.SIGINT),
    "Ctrl-C, then kill -9": (signal.SIGINT, signal.SIGKILL),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("delay_s", [0.3, 0.9, 1.8])
def test_after_the_next_start_nothing_of_a_dead_owner_is_left(
    engine: Engine, instance: Instance, end: str, delay_s: float
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=variables_of(engine),
    )
    assert owner.stdin and owner.stdout
    owner.stdin.write(pickle.dumps(instance))
    owner.stdin.close()
    assert owner.stdout.readline() == b"begun\n"
    time.sleep(delay_s)
    for number in ENDS[end]:
        owner.send_signal(number)
        time.sleep(0.2)
    assert owner.wait(60) != 0
    owner.stdout.close()
    if end == "Ctrl-C":  # cleans up by itself
        assert _left_by(engine, owner.pid) == []
    subprocess.run(
        [sys.executable, "-m", "srl_swe.cli.main", "gc"], check=False, env=variables_of(engine), capture_output=True
    )
    collect_garbage(engine)
    assert _left_by(engine, owner.pid) == []


def _left_by(engine: Engine, pid: int) -> list[str]:
    rows = [*engine.list_containers(LABEL), *engine.list_images(f"{LABEL}=snapshot")]
    return [row.id for row in rows if row.labels.get("srl_swe.pid") == str(pid)]


# Threads that nobody waits for go on opening containers while the process ends.
RESTLESS = """
import os, threading, time
from srl_swe.environments.connect import connect_engine
from srl_swe.environments.container import Container
from srl_swe.errors import ContainerError
engine = connect_engine()
def open_for_ever():
    while True:
        try:
            Container.start(engine, "srl-swe/base:bookworm").close()
        except ContainerError:
            pass
for _ in range(3):
    threading.Thread(target=open_for_ever, daemon=True).start()
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("delay_s", [0.1, 0.15, 0.2, 0.25, 0.3, 0.35])
def test_threads_that_outlive_ctrl_c_leave_nothing(engine: Engine, delay_s: float) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", RESTLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=variables_of(engine),
    )
    assert owner.stdout and owner.stdout.readline() == b"begun\n"
    time.sleep(delay_s)
    owner.send_signal(signal.SIGINT)
    assert owner.wait(60) != 0
    owner.stdout.close()
    assert _left_by(engine, owner.pid) == []


def test_an_exception_in_reset_leaves_nothing(engine: Engine, instance: Instance) -> None:
    broken = replace(instance, environment=replace(instance.environment, activate="echo why; exit 9"))
    env = SWEEnv([broken], engine=engine, grade=False)
    before = set(_left_by(engine, os.getpid()))
    for _ in range(2):
        with pytest.raises(ContainerError):
            env.reset()
    env.close()
    assert set(_left_by(engine, os.getpid())) == before


def test_a_lease_that_is_over_ends_the_protection_of_any_owner() -> None:
    elsewhere = {**owner_labels(), "srl_swe.host": "elsewhere"}
    assert not is_abandoned({**elsewhere, **lease_label(60)}, running=True)
    assert is_abandoned({**elsewhere, **lease_label(-3600)}, running=True)
    assert is_abandoned({**owner_labels(), **lease_label(-3600)}, running=True)


class OwnEngine:
    """A Docker engine of the test's own, to be stopped, killed and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        flags = {
            "--data-root": "data",
            "--exec-root": "exec",
            "--pidfile": "pid",
            "--config-file": "none.json",
        }
        (self.folder / "none.json").write_text("{}")
        # Without --bridge=none, which would take the default bridge away from the machine's own engine.
        command = ["dockerd", "--host", f"unix://{self.socket}", "--iptables=false", "--ip-masq=false"]
        command += ["--ip-forward=false"]
        command += [f"{flag}={self.folder / name}" for flag, name in flags.items()]
        for stale in ("pid", "sock", "exec/containerd/containerd.pid", "exec/containerd/containerd.sock"):
            (self.folder / stale).unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(EngineUnavailableError), self.connect(timeout_s=5):
                return
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()[
                -2000:
            ]
            time.sleep(0.1)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def connect(self, *, timeout_s: float) -> DockerEngine:
        with engine_errors("no own engine"):
            return DockerEngine(DockerClient(base_url=f"unix://{self.socket}", timeout=timeout_s))

    def stop(self) -> None:
        assert self.process is not None
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        self.process.wait(60)
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(int((self.folder / "exec" / "containerd" / "containerd.pid").read_text()), signal.SIGTERM)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{self.folder}/")]):
            subprocess.run(["umount", "--lazy", mount], check=False)


@pytest.fixture(scope="module")
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    if not shutil.which("dockerd") or os.geteuid() != 0:
        pytest.skip("needs dockerd, and root to run it")
    own = OwnEngine(tmp_path_factory.mktemp("dockerd"))
    own.start()
    load_base_image(f"unix://{own.socket}")
    yield own
    own.stop()


def test_a_killed_engine_is_an_error_and_its_return_leaves_nothing(own_engine: OwnEngine) -> None:
    with own_engine.connect(timeout_s=20) as engine:
        env = SWEEnv([_make_instance(engine)], engine=engine, grade=False)
        env.reset()
        assert env.step("echo alive")[0] == "alive\n"
        own_engine.kill()
        with pytest.raises(EngineUnavailableError):
            env.step("echo dead")
        with pytest.raises(EngineUnavailableError):
            env.reset()
        own_engine.start()
        env.reset()
        assert env.step("echo again")[0] == "again\n"
        env.close()
        collect_garbage(engine)
        assert _left_by(engine, os.getpid()) == []


def test_a_hung_engine_is_an_error_within_its_time_limit(own_engine: OwnEngine) -> None:
    with own_engine.connect(timeout_s=2) as engine:
        env = SWEEnv([_make_instance(engine)], engine=engine, grade=False, command_timeout_s=1, num_warm=0)
        env.reset()
        own_engine.signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(EngineTimeoutError):
                env.step("echo nobody reads this")
            with pytest.raises(EngineTimeoutError):
                env.reset()
            assert time.monotonic() - started < 30
        finally:
            own_engine.signal(signal.SIGCONT)
        env.reset()
        assert env.step("echo again")[0] == "again\n"
        env.close()
        assert _left_by(engine, os.getpid()) == []
