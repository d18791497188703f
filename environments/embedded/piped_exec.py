"""An `Exec` whose standard streams are pipes of this machine. Left out: how its program is started (`sandbox.py`)."""

import contextlib
import os
import select
import time
from collections.abc import Iterator, Mapping
from typing import Any

from srl_swe.environments.embedded.spawner import Running, Spawner, is_ready
from srl_swe.environments.engine import STDERR, STDOUT
from srl_swe.errors import ContainerError, EngineTimeoutError

_READ_BYTES = 1 << 18
_EXIT_REPORT_S = 0.25
"""How much later than the end of its output a program's exit code may be known."""
_START_TIMEOUT_S = 60.0
_STALL_TIMEOUT_S = 60.0


class PipedExec:
    """Our ends of a program's streams."""

    def __init__(self, spawner: Spawner, running: Running, *, stdin: int | None, stdout: int, stderr: int) -> None:
        """`stdin` None: the program has none."""
        self._spawner = spawner
        self._running = running
        self._stdin = stdin
        self._sources = {stdout: STDOUT, stderr: STDERR}
        self._poll = select.poll()
        for descriptor in self._sources:
            self._poll.register(descriptor, select.POLLIN)
        if stdin is not None:
            os.set_blocking(stdin, False)

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """See `Exec`."""
        deadline = time.monotonic() + timeout_s
        left = memoryview(data)
        while left:
            if self._stdin is None:
                raise BrokenPipeError("the program has no stdin, or it was closed")
            try:
                left = left[os.write(self._stdin, left) :]
            except BlockingIOError:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not is_ready(self._stdin, timeout_s=left_s, event=select.POLLOUT):
                    raise TimeoutError(f"the program did not read its input within {timeout_s:.1f} s") from None

    def receive(self, *, timeout_s: float) -> list[tuple[int, bytes]] | None:
        """See `Exec`."""
        deadline = time.monotonic() + timeout_s
        while self._sources:
            left_s = max(deadline - time.monotonic(), 0.0)
            payloads = []
            for descriptor, _ in self._poll.poll(left_s * 1000):
                data = os.read(descriptor, _READ_BYTES)
                if data:
                    payloads.append((self._sources[descriptor], data))
                else:
                    self._end(descriptor)
            if payloads or (self._sources and left_s == 0.0):
                return payloads
        return None

    def exit_code(self) -> int | None:
        """See `Exec`."""
        return self._spawner.exit_code(self._running, wait_s=0.0 if self._sources else _EXIT_REPORT_S)

    def close(self) -> None:
        """See `Exec`."""
        stdin, self._stdin = self._stdin, None
        if stdin is not None:
            os.close(stdin)
        for descriptor in list(self._sources):
            self._end(descriptor)

    def _end(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._sources[descriptor]
        os.close(descriptor)


def open_exec(spawner: Spawner, arguments: Mapping[str, Any], *, stdin: bool) -> PipedExec:
    """Have the task `execute` done. Without `stdin` the program reads nothing."""
    running = Running()
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        writer = None
        if stdin:
            reader, writer = _pipe(theirs, ours)
        else:
            reader = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            theirs.callback(os.close, reader)
        stdout, their_stdout = _pipe(ours, theirs)
        stderr, their_stderr = _pipe(ours, theirs)
        files = [reader, their_stdout, their_stderr]
        spawner.request("execute", arguments, files=files, timeout_s=_START_TIMEOUT_S, running=running)
        ours.pop_all()
    return PipedExec(spawner, running, stdin=writer, stdout=stdout, stderr=stderr)


def read_archive(
    spawner: Spawner, arguments: Mapping[str, Any], *, limit_s: float, what: str
) -> tuple[Iterator[bytes], str]:
    """Have the task `get_archive` done; return the archive in chunks, and where a link leads."""
    running = Running()
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        reader, writer = _pipe(ours, theirs)
        arguments = {**arguments, "limit_s": limit_s}
        answer = spawner.request("get_archive", arguments, files=[writer], timeout_s=_START_TIMEOUT_S, running=running)
        ours.pop_all()
    return _chunks(reader, spawner, running, what), answer["link"]


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[int, int]:
    """Return a pipe whose ends are closed with the two stacks."""
    reader, writer = os.pipe()
    reading.callback(os.close, reader)
    writing.callback(os.close, writer)
    return reader, writer


def _chunks(descriptor: int, spawner: Spawner, running: Running, what: str) -> Iterator[bytes]:
    """Yield what a task writes to a pipe, and close it.

    Raises:
        ContainerError: the task did not come to a good end; `what` opens the message.
    """
    try:
        while True:
            if not is_ready(descriptor, timeout_s=_STALL_TIMEOUT_S):
                raise EngineTimeoutError(f"{what}: nothing came for {_STALL_TIMEOUT_S:.0f} s")
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                break
            yield data
    finally:
        os.close(descriptor)
    if spawner.exit_code(running, wait_s=_STALL_TIMEOUT_S) != 0:
        raise ContainerError(f"{what}: it broke off in the middle")
