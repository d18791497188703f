"""An engine behind an ssh server of our own on this machine."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from srl_swe.environments.connect import connect_engine, connect_engine_at
from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL
from srl_swe.errors import EngineUnavailableError
from tests.environments.conftest import BASE_IMAGE

pytestmark = pytest.mark.docker

SERVER = Path(__file__).with_name("ssh_server.py")
SSH = """\
#!/bin/sh
exec {ssh} -F {folder}/config "$@"
"""
CONFIG = """\
IdentityFile {folder}/key
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An ssh server that lets this user in by a new key; `ssh` finds the key."""
    ssh = shutil.which("ssh")
    assert ssh is not None, "the program ssh is missing"
    (programs := tmp_path / "bin").mkdir()
    for name in ("key", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "config").write_text(CONFIG.format(folder=tmp_path))
    (programs / "ssh").write_text(SSH.format(ssh=ssh, folder=tmp_path))
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    process = subprocess.Popen([sys.executable, SERVER, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {(tmp_path / 'host.pub').read_text()}")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def test_a_container_runs_behind_ssh(engine: Engine, server: str) -> None:
    with connect_engine_at(f"ssh://{server}/var/run/docker.sock") as remote:
        assert remote.name == engine.name
        with Container.start(remote, BASE_IMAGE) as container:
            assert container.name in {row.id for row in engine.list_containers(LABEL)}
            container.write_file("/tmp/data", b"x" * (1 << 20))
            assert container.execute(["wc", "-c", "/tmp/data"]).output.split()[0] == str(1 << 20)
            assert container.execute(["sleep", "60"], timeout_s=0.5).timed_out
        assert container.name not in {row.id for row in engine.list_containers(LABEL)}


def test_the_variable_may_name_it(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"ssh://{server}")
    with connect_engine(collect=False) as remote:
        assert remote.find_image(BASE_IMAGE) is not None


def test_a_connection_that_ends_is_an_engine_that_does_not_answer(server: str) -> None:
    with connect_engine_at(f"ssh://{server}") as remote:
        remote._tunnel._process.kill()  # type: ignore[attr-defined]
        with pytest.raises(EngineUnavailableError):
            for _ in range(50):
                remote.list_containers(LABEL)
                time.sleep(0.1)


def test_a_host_that_is_not_known_is_refused(server: str, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("")
    with pytest.raises(EngineUnavailableError, match=r"ssh cannot connect \(.*Host key verification failed"):
        connect_engine_at(f"ssh://{server}")


def test_a_host_without_an_engine_is_told(server: str, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="cannot connect to a container engine"):
        connect_engine_at(f"ssh://{server}{tmp_path}/nothing.sock")


def test_nothing_is_left_of_a_killed_process(server: str) -> None:
    program = f"from srl_swe.environments.connect import connect_engine, connect_engine_at; e = connect_engine_at('ssh://{server}');"
    program += "print(e._tunnel._process.pid, e._tunnel.socket.parent, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid, folder = process.stdout.readline().split()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while (
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    shutil.rmtree(folder)
