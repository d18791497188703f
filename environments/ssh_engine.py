"""An engine on another machine, reached over ssh: its socket is forwarded to one here.

The Docker SDK's own way over ssh has no time limits, so the program `ssh` does it, with the user's configuration and
keys. Nothing is asked: a host that wants a password or is not known yet is an error.
"""

import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from docker.client import DockerClient

from srl_swe.environments.docker_engine import DockerEngine, engine_errors
from srl_swe.errors import EngineUnavailableError

_DEFAULT_SOCKET = "/var/run/docker.sock"
_START_LIMIT_S = 30.0
_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=15",
    "ExitOnForwardFailure=yes",
    # A host that vanishes ends the connection after a minute, and with it every call that waits.
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ControlMaster=no",
    "ControlPath=none",
    "ForwardX11=no",
    "ForwardAgent=no",
)


class SshEngine(DockerEngine):
    """A Docker engine behind a forwarded socket, which closes with it."""

    def __init__(self, client: DockerClient, tunnel: "_Tunnel") -> None:
        self._tunnel = tunnel
        super().__init__(client)

    @classmethod
    def connect(cls, address: str, *, timeout_s: float = 60) -> Self:
        """Connect to the engine at ssh://[USER@]HOST[:PORT][/SOCKET].

        Raises:
            EngineUnavailableError: ssh cannot connect, or no engine answers behind it.
        """
        tunnel = _Tunnel(address)
        try:
            with engine_errors(f"cannot connect to a container engine at {address}"):
                client = DockerClient(base_url=f"unix://{tunnel.socket}", timeout=timeout_s)
            return cls(client, tunnel)
        except BaseException:
            tunnel.close()
            raise

    def close(self) -> None:
        """See `Engine`."""
        super().close()
        self._tunnel.close()


class _Tunnel:
    """A running `ssh` that forwards a socket."""

    def __init__(self, address: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="srl-swe-ssh-")
        self.socket = Path(self._folder.name, "engine")
        try:
            self._start(address)
        except BaseException:
            self._folder.cleanup()
            raise

    def _start(self, address: str) -> None:
        found = re.fullmatch(r"ssh://([^/]+?)(?::(\d+))?(/.+)?", address)
        assert found is not None, f"{address!r} was to be checked before"
        host, port, socket = found[1], found[2], found[3] or _DEFAULT_SOCKET
        command = [
            "ssh",
            "-T",
            "-L",
            f"{self.socket}:{socket}",
            *(word for option in _OPTIONS for word in ("-o", option)),
        ]
        command += ["-p", port] if port else []
        # It ends when its input does, so also when this process is killed.
        command += ["--", host, "echo ready && exec cat >/dev/null"]
        said = Path(self._folder.name, "log")
        with said.open("wb") as log:
            try:
                # A session of its own, so that Ctrl-C does not end it before the containers are removed.
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
                )
            except FileNotFoundError as error:
                raise EngineUnavailableError(f"{address}: the program ssh is not installed here") from error
        deadline = time.monotonic() + _START_LIMIT_S
        while not (self.socket.exists() and b"ready\n" in said.read_bytes()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                why = said.read_text(errors="replace").strip()[-500:] or f"no answer within {_START_LIMIT_S:.0f} s"
                raise EngineUnavailableError(
                    f"{address}: ssh cannot connect ({why}). `ssh {host} true` has to work without a question"
                )
            time.sleep(0.02)

    def close(self) -> None:
        """End the connection; idempotent."""
        self._end()
        self._folder.cleanup()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdin is not None
        self._process.stdin.close()
