"""Containers of a process that is killed are removed at once, by a small process that outlives it.

`leases` removes them when the next process of this project starts on the machine. Where that may be long after, as on
a node of a cluster, this does it.
"""

import subprocess
import sys

from srl_swe.closing import Closing

_PROGRAM = """
import os, sys, time
if os.fork():
    os._exit(0)  # nobody's child, so that what ends a process with all its children leaves it alone
if sys.stdin.buffer.read(1):
    sys.exit()
from srl_swe.environments.connect import connect_engine
from srl_swe.environments.leases import collect_garbage
from srl_swe.errors import ContainerError
for _ in range(60):
    try:
        with connect_engine(collect=False) as engine:
            # Files are closed a moment before a process counts as gone; an engine may be about to start a container.
            for _ in range(10):
                collect_garbage(engine)
                time.sleep(0.5)
        break
    except ContainerError:  # an engine that was killed as well may come back
        time.sleep(10)
"""
"""Its input ends without a byte when the process at the other end of the pipe is killed."""


class Aftermath(Closing):
    """A process that removes what this one leaves at its engine, should this one end before `close`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._process.wait(60)

    def close(self) -> None:
        """Say that nothing is left; idempotent."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.write(b"x")
            self._process.stdin.close()
