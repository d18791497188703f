"""The end of helper processes together with this one, also where it is killed and can end nothing itself.

Leaves out the ordinary end: whoever started a process ends it.
"""

import subprocess
import sys
from collections.abc import Collection

from srl_swe.closing import Closing

_PROGRAM = """
import os, signal, sys
sys.stdin.buffer.read()
for pid in sys.argv[1:]:
    try:
        os.kill(int(pid), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
"""Its input ends when the process at the other end of the pipe does, however that comes about."""


class Guardian(Closing):
    """A process of its own that kills these processes should this one end before `close`."""

    def __init__(self, pids: Collection[int]) -> None:
        command = [sys.executable, "-I", "-S", "-c", _PROGRAM, *map(str, pids)]
        # A session of its own, so that Ctrl-C does not end it before this process.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def close(self) -> None:
        """Let the processes go on without it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
