"""A real process that is killed, and what it leaves running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import subprocess, sys, time
from srl_swe.training.guardian import Guardian
sleeper = subprocess.Popen(["sleep", "600"])
guardian = Guardian([sleeper.pid])
if sys.argv[1] == "closed":
    guardian.close()
    guardian.close()
print(sleeper.pid, flush=True)
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("state", ["open", "closed"])
def test_processes_end_with_a_killed_one(state: str) -> None:
    command = [sys.executable, "-c", PROGRAM, state]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        sleeper = int(process.stdout.readline())
        assert is_running(sleeper)
        process.kill()
    deadline = time.monotonic() + (20 if state == "open" else 1)
    while is_running(sleeper) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_running(sleeper) == (state == "closed")
    if state == "closed":
        os.kill(sleeper, signal.SIGKILL)
