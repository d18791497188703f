"""Who owns a container: labels that name the owner, and removal of what dead owners left.

An owner is a process of this project. A container is removed only when its owner is known to be
gone, so concurrent runs on one engine never lose anything. Left out: starting and closing
containers, which `container.py` does.
"""

import logging
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srl_swe.environments.engine import Engine

LOGGER = logging.getLogger(__name__)

LABEL = "srl_swe"
_HOST = "srl_swe.host"
_BOOT = "srl_swe.boot_id"
_PID_NAMESPACE = "srl_swe.pid_namespace"
_PID = "srl_swe.pid"
_START_TIME = "srl_swe.start_time"


def owner_labels() -> dict[str, str]:
    """Return the labels that mark a container as owned by this process."""
    pid = os.getpid()
    return {
        LABEL: "1",
        _HOST: platform.node(),
        _BOOT: _boot_id(),
        _PID_NAMESPACE: _pid_namespace(),
        _PID: str(pid),
        _START_TIME: _start_time(pid) or "",
    }


def is_abandoned(labels: Mapping[str, str], *, running: bool) -> bool:
    """Tell whether the owner that `labels` name is certainly gone.

    A process id means something only on its host, in its process-id namespace and until the next
    boot; an owner that cannot be judged from here counts as alive. After a boot of this host what
    still runs belongs to another host of the same name (a reboot ends the containers of a local
    engine), so only what does not run is abandoned then.
    """
    if labels.get(LABEL) != "1" or labels.get(_HOST) != platform.node():
        return False
    if labels.get(_BOOT) != _boot_id():
        return not running
    pid = labels.get(_PID, "")
    if labels.get(_PID_NAMESPACE) != _pid_namespace() or not pid.isdecimal():
        return False
    return _start_time(int(pid)) != labels.get(_START_TIME)


def collect_garbage(engine: "Engine") -> list[str]:
    """Remove the containers of dead owners on this host and return their ids.

    Raises:
        ContainerError: the engine could not list them, or could not remove one.
    """
    removed = []
    for container_id, labels, running in engine.list_labelled(LABEL):
        if is_abandoned(labels, running=running) and engine.remove(container_id):
            removed.append(container_id)
    if removed:
        LOGGER.info("removed %d container(s) left by dead processes", len(removed))
    return removed


def _start_time(pid: int) -> str | None:
    """Return when the process started, in clock ticks since boot; None where it does not live."""
    try:
        # The command name may hold spaces and parentheses: the fields count from its last ")".
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() or not _is_alive(pid) else ""
    return None if fields[0] in "ZX" else fields[19]


def _is_alive(pid: int) -> bool:
    """Ask the kernel about a process where there is no /proc (macOS)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
