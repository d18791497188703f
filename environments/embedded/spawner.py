"""The big process's end of the small process from which programs in containers are started by fork (`jobs.py`).

A copy of a process with many threads would not do, and takes long. What programs a request starts report their exit
codes over one pipe that all share. When the big process ends, the small one does.
"""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from srl_swe.environments.embedded import linux
from srl_swe.environments.embedded.jobs import EXIT, NUMBER
from srl_swe.errors import ContainerError, EngineTimeoutError, EngineUnavailableError

_SEND_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 5.0
# The package's own __init__ registers environments with Gymnasium, which takes longer than all the rest.
_BOOTSTRAP = """
import sys, types
package = sys.modules["srl_swe"] = types.ModuleType("srl_swe")
package.__path__ = [sys.argv[1]]
from srl_swe.environments.embedded.jobs import serve
from srl_swe.environments.embedded.sandbox import TASKS
serve(TASKS, int(sys.argv[2]), int(sys.argv[3]))
"""


class TaskError(ContainerError):
    """A task failed; `errno` is that of the OSError it raised, None for any other error."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class Running:
    """A program, or a task, whose exit code will be reported."""

    def __init__(self) -> None:
        self.code: int | None = None


class Spawner:
    """May be shared between threads. The small process starts with the first request, and again after a fork."""

    def __init__(self, *, executable_is_ours: bool) -> None:
        """`executable_is_ours`: root in a container may write what this user may, so it must not get at Python's file.

        A program in the container can make what starts it execute /proc/self/exe, that is this Python, and then
        overwrite it (CVE-2019-5736).
        """
        self._executable_is_ours = executable_is_ours
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._stderr = -1
        self._exits: tuple[int, int] | None = None
        self._exits_lock = threading.Lock()
        self._running: WeakValueDictionary[int, Running] = WeakValueDictionary()
        self._last_number = 0

    def request(
        self,
        task: str,
        arguments: Mapping[str, Any],
        *,
        files: Sequence[int] = (),
        timeout_s: float,
        running: Running | None = None,
    ) -> dict[str, Any]:
        """Have a task done, with descriptors of ours as its own, and return its answer.

        Raises:
            TaskError: it failed.
            EngineTimeoutError: it did not answer in time, and is ended.
            EngineUnavailableError: the small process does not start.
        """
        deadline = time.monotonic() + timeout_s
        order = json.dumps({"task": task, "arguments": arguments, "limit_s": timeout_s})
        answer_end, their_end = os.pipe()
        try:
            try:
                self._send(order.encode(), [their_end, *files], running)
            finally:
                os.close(their_end)
            answer = _read_all(answer_end, deadline)
        finally:
            os.close(answer_end)
        if answer is None:
            raise EngineTimeoutError(f"{task!r} was not done within {timeout_s:.0f} s")
        try:
            # A second line is of a program that then could not be executed.
            found: dict[str, Any] = json.loads(answer.splitlines()[-1])
        except (ValueError, IndexError) as error:
            raise self._interrupted(task) from error
        if "error" in found:
            raise TaskError(found["error"], found["errno"])
        return found

    def exit_code(self, running: Running, *, wait_s: float = 0.0) -> int | None:
        """Return the exit code that was reported, None where none was within `wait_s`."""
        deadline = time.monotonic() + wait_s
        while running.code is None and self._exits is not None:
            left_s = max(0.0, deadline - time.monotonic())
            # Another thread may have read what this one waits for.
            if not is_ready(self._exits[0], timeout_s=min(left_s, 0.02)) and left_s == 0.0:
                break
            self._read_exits()
        return running.code

    def close(self) -> None:
        """End the small process; programs go on. Idempotent, and the next request starts it anew."""
        with self._lock:
            self._stop()

    def _send(self, order: bytes, files: Sequence[int], running: Running | None) -> None:
        if self._owner_pid != os.getpid():  # a fork took over what is our parent's, locks included
            self._forget()
        self._read_exits()
        descriptor = os.memfd_create("order")
        try:
            os.truncate(descriptor, len(order))
            os.pwrite(descriptor, order, 0)
            with self._lock:
                self._last_number += 1
                if running is not None:
                    self._running[self._last_number] = running
                try:
                    self._send_once([descriptor, *files])
                except OSError:  # it was ended since the last request
                    self._stop()
                    self._send_once([descriptor, *files])
        except OSError as error:
            raise EngineUnavailableError(f"the embedded engine's own process cannot be used: {error}") from error
        finally:
            os.close(descriptor)

    def _send_once(self, files: Sequence[int]) -> None:
        if self._socket is None:
            self._socket = self._start()
        socket.send_fds(self._socket, [NUMBER.pack(self._last_number)], files)

    def _read_exits(self) -> None:
        """Take note of the exit codes that were reported since."""
        with self._exits_lock:
            while self._exits is not None:
                try:
                    records = os.read(self._exits[0], 1000 * EXIT.size)
                except BlockingIOError:
                    return
                for number, code in EXIT.iter_unpack(records):
                    running = self._running.get(number)
                    if running is not None:
                        running.code = code

    def _start(self) -> socket.socket:
        if self._exits is None:
            self._exits = os.pipe()
            os.set_blocking(self._exits[0], False)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_SEND_TIMEOUT_S)
        python = str(Path(sys.executable).resolve())
        copy = linux.sealed_copy(python) if self._executable_is_ours else -1
        self._stderr = os.memfd_create("stderr")
        package, numbers = Path(__file__).parents[2], (theirs.fileno(), self._exits[1])
        try:
            self._process = subprocess.Popen(
                [python, "-X", "utf8", "-I", "-S", "-c", _BOOTSTRAP, str(package), *map(str, numbers)],
                executable=python if copy < 0 else f"/proc/self/fd/{copy}",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                cwd="/",
                env={"PATH": os.defpath},
                pass_fds=[*numbers, copy] if copy >= 0 else numbers,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(self._stderr)
            raise
        finally:
            theirs.close()
            if copy >= 0:
                os.close(copy)
        return ours

    def _stop(self) -> None:
        if self._socket is None or self._process is None or self._owner_pid != os.getpid():
            return
        self._socket.close()
        self._socket = None
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._stderr)

    def _forget(self) -> None:
        """Close what a fork left open here, and begin anew."""
        self._owner_pid = os.getpid()
        self._lock, self._exits_lock = threading.Lock(), threading.Lock()
        if self._socket is not None:
            self._socket.close()
            os.close(self._stderr)
        for descriptor in self._exits or ():
            os.close(descriptor)
        self._socket = self._process = self._exits = None
        self._running = WeakValueDictionary()

    def _interrupted(self, task: str) -> ContainerError:
        """Return the error for a task that ended without an answer."""
        with self._lock:
            if self._socket is None or self._process is None or self._process.poll() is None:
                return TaskError(f"{task!r} was interrupted")
            said = os.pread(self._stderr, 4096, 0).decode(errors="replace").strip()
        return EngineUnavailableError(f"the embedded engine's own process ended: {said or 'it said nothing'}")


def is_ready(descriptor: int, *, timeout_s: float, event: int = select.POLLIN) -> bool:
    """Wait until a descriptor can be read (or with POLLOUT written), or its other end is closed."""
    poll = select.poll()  # unlike select, for descriptors beyond 1023 too
    poll.register(descriptor, event)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))


def _read_all(descriptor: int, deadline: float) -> bytes | None:
    """Return all that comes until the other ends are closed, None where the time is over first."""
    data = b""
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not is_ready(descriptor, timeout_s=left_s):
            return None
        part = os.read(descriptor, 1 << 16)
        if not part:
            return data
        data += part
