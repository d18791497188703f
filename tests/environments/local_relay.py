"""docker/relay as a process of this machine, so that what it carries can be tested without a container."""

import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from srl_swe.environments.engine import STDERR, STDOUT

RELAY = Path(__file__).parents[2] / "docker" / "relay"


class LocalRelay:
    """A `Stream`, and the way to its port."""

    def __init__(self, port: int = 0, *, python: str = os.environ.get("RELAY_PYTHON", sys.executable)) -> None:
        """Listen on `port`; 0 means a free one."""
        if not port:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
        self.port = port
        self.process = subprocess.Popen(
            [python, "-I", str(RELAY), str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.sources = {self.process.stdout.fileno(): STDOUT, self.process.stderr.fileno(): STDERR}
        self.input = self.process.stdin.fileno()
        os.set_blocking(self.input, False)

    def send(self, data: bytes, *, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while data:
            if not select.select([], [self.input], [], max(deadline - time.monotonic(), 0))[1]:
                raise TimeoutError
            data = data[os.write(self.input, data) :]

    def receive(self, *, timeout_s: float) -> list[tuple[int, bytes]] | None:
        while self.sources:
            ready = select.select(list(self.sources), [], [], timeout_s)[0]
            payloads = [(self.sources[source], os.read(source, 1 << 18)) for source in ready]
            self.sources = {source: stream for source, stream in self.sources.items() if (stream, b"") not in payloads}
            if not ready or any(data for _, data in payloads):
                return [payload for payload in payloads if payload[1]]
        return None

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()
        self.process.wait(timeout=10)

    def connect(self) -> socket.socket:
        """Open a connection as a program of the container would."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)
