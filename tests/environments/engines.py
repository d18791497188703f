"""The engines that the tests start themselves: Podman's service, and the embedded engine, with Docker's base image."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from docker.client import DockerClient

from srl_swe.environments.docker_engine import DockerEngine
from srl_swe.environments.engine import Engine
from srl_swe.errors import EngineUnavailableError
from srl_swe.paths import cache_dir
from tests.environments.embedded import CACHE as EMBEDDED_CACHE

BASE_IMAGE = "srl-swe/base:bookworm"

_variables: dict[str, dict[str, str]] = {}


def variables_of(engine: Engine) -> dict[str, str]:
    """Return the environment of a child process that is to use the same engine."""
    if engine.name.startswith("embedded"):
        return {**os.environ, "SRL_SWE_ENGINE": "embedded", "SRL_SWE_CACHE": str(EMBEDDED_CACHE)}
    return {**os.environ, **_variables.get(engine.name, {})}


@contextlib.contextmanager
def podman_engine() -> Iterator[Engine]:
    """Podman's Docker-compatible service on a socket of its own, its storage kept for the next time."""
    if not shutil.which("podman"):
        raise EngineUnavailableError("podman is not installed")
    # Its database remembers both folders, so both stay.
    folder = cache_dir() / "tests" / "podman"
    with tempfile.TemporaryDirectory(prefix="srl-swe-podman-") as run:
        command = ["podman", "--root", str(folder), "--runroot", str(folder / "run")]
        if shutil.which("runc"):  # Debian's crun refuses hosts that have both versions of cgroups
            command += ["--runtime", "runc"]
        path = Path(run, "sock")
        with Path(run, "log").open("w") as log:
            service = subprocess.Popen(
                [*command, "system", "service", "--time=0", f"unix://{path}"],
                stdout=log,
                stderr=log,
                cwd=run,  # its monitor leaves a file "oom" there
            )
        try:
            _await_socket(path, service)
            with DockerEngine(DockerClient(base_url=f"unix://{path}", timeout=60)) as engine:
                _variables[engine.name] = {"DOCKER_HOST": f"unix://{path}"}
                if engine.find_image(BASE_IMAGE) is None:
                    load_base_image(f"unix://{path}")
                yield engine
        finally:
            subprocess.run([*command, "rm", "--force", "--all"], capture_output=True, timeout=60)
            service.terminate()
            service.wait(10)


def load_base_image(url: str) -> None:
    """Copy the base image from the Docker engine of this machine to the engine at `url`."""
    saved = subprocess.Popen(["docker", "save", BASE_IMAGE], stdout=subprocess.PIPE)
    assert saved.stdout is not None
    with contextlib.closing(DockerClient(base_url=url, timeout=300)) as client:
        client.api.load_image(saved.stdout)
    assert saved.wait() == 0


def _await_socket(path: Path, service: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while True:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            return
        if service.poll() is not None or time.monotonic() > deadline:
            raise EngineUnavailableError(f"podman's service does not answer; its log is {path.parent / 'log'}")
        time.sleep(0.1)
