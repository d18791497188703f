"""Whether the embedded engine works on this machine, what it lacks there, and what to do about it.

Left out: the trial itself, the task `probe` (`sandbox.py`).
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from srl_swe.environments.embedded.cgroups import CONTROLLERS
from srl_swe.environments.embedded.container_records import UPPER, WORK
from srl_swe.environments.embedded.folder import EngineFolder
from srl_swe.environments.embedded.whole_folders import new_folder
from srl_swe.errors import ContainerError, EngineUnavailableError

_PROBE_TIMEOUT_S = 60.0
_OLDEST_KERNEL = (5, 11)
"""The first in which user namespaces may mount overlays: https://kernelnewbies.org/Linux_5.11"""
_UNCONTROLLED = {
    "memory": "memory is limited for each process, not for a container as a whole (no writable cgroup)",
    "pids": "the number of processes is limited by RLIMIT_NPROC (no writable cgroup)",
    "cpu": "processor time is not limited (no writable cgroup)",
}
_SWITCHES = (
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ("user/max_user_namespaces", "0", "10000"),
)
"""Settings below /proc/sys that forbid user namespaces: name, value that does, value that does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the engine found."""

    bwrap: str
    """Path of bubblewrap's program."""
    version: str
    """Of bubblewrap."""
    cgroups: Mapping[str, Path]
    """Controller -> folder to make groups in."""
    has_seccomp: bool


def examine(folder: EngineFolder) -> Machine:
    """Try everything that a container needs.

    Raises:
        EngineUnavailableError: it does not work here; the message says what to do.
    """
    if sys.platform != "linux":
        raise EngineUnavailableError("the embedded engine needs Linux; use Docker or Podman here")
    bwrap = shutil.which("bwrap")
    if not bwrap:
        raise EngineUnavailableError(
            "the embedded engine needs bubblewrap, and there is no `bwrap` on PATH: `apt-get install bubblewrap` (or "
            "dnf, pacman, apk; without root `conda install -c conda-forge bubblewrap`)"
        )
    try:
        version = folder.run(bwrap, "--version")
        with new_folder(folder.containers, owner=folder.id_map.root) as scratch:
            for name in ("lower", UPPER, WORK):
                folder.make(scratch / name)
            (scratch / "lower" / "sys").mkdir()
            true = shutil.which("true") or "/bin/true"
            found = folder.request("probe", scratch=str(scratch), bwrap=bwrap, true=true, timeout_s=_PROBE_TIMEOUT_S)
        folder.sweep(folder.containers)
    except (ContainerError, OSError) as error:
        said = str(error).rstrip(". ")
        raise EngineUnavailableError(f"the embedded engine does not work here: {said}. {_advice(said)}") from error
    cgroups = {controller: Path(path) for controller, path in found["cgroups"].items()}
    return Machine(bwrap=bwrap, version=version, cgroups=cgroups, has_seccomp=found["seccomp"])


def find_gaps(folder: EngineFolder, machine: Machine) -> tuple[str, ...]:
    """Return what is not isolated or limited here, in words."""
    gaps = ["containers have no network (ContainerLimits.network is refused)"]
    if not machine.has_seccomp:
        gaps.append("system calls are not filtered (libseccomp.so.2 is missing)")
    if folder.id_map.is_own_user:
        gaps.append(f"root in a container is user id {os.geteuid()} on the host, in a user namespace")
    if not folder.id_map.groups:
        gaps.append("processes in a container keep the supplementary groups of this user")
    if not folder.id_map.has(1000, 1000):
        gaps.append(
            "commands run as 0:0 only, and files have no other owner: further ids need the programs newuidmap and "
            "newgidmap (package uidmap) and lines for this user in /etc/subuid and /etc/subgid"
        )
    gaps += [_UNCONTROLLED[controller] for controller in CONTROLLERS if controller not in machine.cgroups]
    return tuple(gaps)


def _advice(said: str) -> str:
    """Say what to do about a machine on which a container cannot be made."""
    release = os.uname().release
    if tuple(int(number) for number in re.findall(r"\d+", release)[:2]) < _OLDEST_KERNEL:
        return f"It needs Linux {'.'.join(map(str, _OLDEST_KERNEL))} or later, this is {release}."
    for name, forbidding, allowing in _SWITCHES:
        with contextlib.suppress(OSError):
            if Path("/proc/sys", name).read_text().strip() == forbidding:
                setting = f"{name.replace('/', '.')}={allowing}"
                return f"This machine forbids user namespaces; root allows them with `sysctl -w {setting}`."
    if "mount overlay" in said:
        return (
            "Overlays need a folder on a local disk (ext4, xfs, btrfs or tmpfs; not NFS, not another overlay): "
            "name one in SRL_SWE_CACHE."
        )
    if "nknown option" in said:
        return "It needs bubblewrap 0.8 or later."
    if "mount proc" in said:
        return "In a container, /proc must not be covered in part (docker run --security-opt systempaths=unconfined)."
    return "User namespaces may be forbidden here; in a container, --security-opt seccomp=unconfined allows them."
