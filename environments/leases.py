"""Who owns a container or a snapshot: labels that name the owner, and removal of what dead owners left.

An owner is a process of this project. What it owns is removed only when the owner is known to be gone, or when
the lease of a container is over, so concurrent runs on one engine never lose anything. Left out: starting and
closing containers, which `container.py` does.
"""

import logging
import os
import platform
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srl_swe.environments.engine import Engine

LOGGER = logging.getLogger(__name__)

LABEL = "srl_swe"
"""Its value says what a thing is: "1" a container, "snapshot" an image that its owner removes."""
_HOST = "srl_swe.host"
_BOOT = "srl_swe.boot_id"
_PID_NAMESPACE = "srl_swe.pid_namespace"
_PID = "srl_swe.pid"
_START_TIME = "srl_swe.start_time"
_LEASE = "srl_swe.lease_until"
_CLOCK_SKEW_S = 600
"""Between two hosts that share an engine, at most; more than that and a lease counts as over too early."""


def owner_labels(kind: str = "1") -> dict[str, str]:
    """Return the labels that mark a container, or with kind "snapshot" an image, as owned by this process."""
    pid = os.getpid()
    return {
        LABEL: kind,
        _HOST: platform.node(),
        _BOOT: _boot_id(),
        _PID_NAMESPACE: _pid_namespace(),
        _PID: str(pid),
        _START_TIME: _start_time(pid) or "",
    }


def ownerless_labels() -> dict[str, str]:
    """Return labels that blank those which an image would inherit from the container that it is made of."""
    return {**dict.fromkeys(owner_labels(), ""), _LEASE: ""}


def lease_label(lifetime_s: float) -> dict[str, str]:
    """Return the label that ends a container's life `lifetime_s` from now, on whichever host its owner is."""
    return {_LEASE: str(int(time.time() + lifetime_s))}


def is_abandoned(labels: Mapping[str, str], *, running: bool) -> bool:
    """Tell whether the owner that `labels` name is certainly gone, or the lease over.

    A process id means something only on its host, in its process-id namespace and until the next
    boot; an owner that cannot be judged from here counts as alive. After a boot of this host what
    still runs belongs to another host of the same name (a reboot ends the containers of a local
    engine), so only what does not run is abandoned then.
    """
    if labels.get(LABEL) not in ("1", "snapshot"):
        return False
    lease = labels.get(_LEASE, "")
    if lease.isdecimal() and time.time() > int(lease) + _CLOCK_SKEW_S:
        return True
    if labels.get(_HOST) != platform.node():
        return False
    if labels.get(_BOOT) != _boot_id():
        return not running
    pid = labels.get(_PID, "")
    if labels.get(_PID_NAMESPACE) != _pid_namespace() or not pid.isdecimal():
        return False
    return _start_time(int(pid)) != labels.get(_START_TIME)


def collect_garbage(engine: "Engine") -> list[str]:
    """Remove what dead owners on this host left, containers and snapshots, and return the names.

    Raises:
        ContainerError: the engine could not list them, or could not remove one.
    """
    removed = [
        container.id
        for container in engine.list_containers(f"{LABEL}=1")
        if is_abandoned(container.labels, running=container.running) and engine.remove(container.id)
    ]
    removed += [
        image.id
        for image in engine.list_images(f"{LABEL}=snapshot")
        if is_abandoned(image.labels, running=False) and engine.remove_image(image.id)
    ]
    if removed:
        LOGGER.info("removed %d container(s) and snapshot(s) left by dead processes", len(removed))
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
