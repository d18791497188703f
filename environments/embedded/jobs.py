"""The small process of the embedded engine: it has one thread, few pages, none of our environment and no secrets.

So a copy of it is made in a millisecond, and may enter a container. Each request becomes a copy of it, a job, which
does one task. Left out: the big process's end (`spawner.py`), the tasks (`sandbox.py`).
"""

import contextlib
import gc
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from srl_swe.environments.embedded import linux
from srl_swe.environments.embedded.namespaces import describe
from srl_swe.environments.embedded.seccomp import seccomp_program

NUMBER = struct.Struct("=Q")
"""A request: its number, and with it descriptors: of the order as JSON, of the answer's pipe, of the task's files."""
EXIT = struct.Struct("=Qi")
"""What is reported of a request's program when it ends: the request's number and the exit code."""

_MAX_FILES = 8
_GRACE_S = 2.0


@dataclass(kw_only=True)
class Job:
    """A job's view of its request."""

    arguments: Mapping[str, Any]
    files: list[int]
    """The descriptors that came with it."""
    number: int
    answer_end: int
    exits: int
    seccomp: bytes | None
    """The filter, None where there is none."""

    def answer(self, **fields: Any) -> None:
        """Answer the request; only an error may follow."""
        os.write(self.answer_end, (json.dumps(fields) + "\n").encode())

    def fail(self, error: BaseException) -> None:
        """Answer that an error came up."""
        self.answer(error=describe(error), errno=getattr(error, "errno", None))

    def report_exit(self, code: int) -> None:
        """Tell the big process, if it lives, that the request's program ended."""
        with contextlib.suppress(OSError):
            os.write(self.exits, EXIT.pack(self.number, code))


def serve(tasks: Mapping[str, Callable[[Job], None]], control: int, exits: int) -> NoReturn:
    """Be the small process: one job per request, until the other end is closed."""
    program = seccomp_program()
    linux.set_process_name("srl-swe-spawner")
    linux.adopt_orphans()
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries what nobody waits for
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            os.set_inheritable(int(entry.name), int(entry.name) <= 2)
    # From inside a container every path leads to files of the container: nothing may be imported there.
    sys.path.clear()
    sys.meta_path.clear()
    gc.freeze()
    with socket.socket(fileno=control) as requests:
        while True:
            data, files, _, _ = socket.recv_fds(requests, NUMBER.size, _MAX_FILES)
            if not data:
                os._exit(0)
            if os.fork() == 0:
                requests.close()
                _do(tasks, NUMBER.unpack(data)[0], files, exits, program)
            for descriptor in files:
                os.close(descriptor)


def _do(
    tasks: Mapping[str, Callable[[Job], None]], number: int, files: list[int], exits: int, program: bytes | None
) -> NoReturn:
    """Be a job."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in files:
            os.set_inheritable(descriptor, False)
        order_end, answer_end, *rest = files
        job = Job(arguments={}, files=rest, number=number, answer_end=answer_end, exits=exits, seccomp=program)
        try:
            with os.fdopen(order_end, "rb") as file:
                order = json.load(file)
            job.arguments = order["arguments"]
            signal.setitimer(signal.ITIMER_REAL, order["limit_s"] + _GRACE_S)
            tasks[order["task"]](job)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - becomes the answer
            job.fail(error)
            job.report_exit(1)
    finally:
        os._exit(1)
