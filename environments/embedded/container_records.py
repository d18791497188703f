"""What the embedded engine keeps on disk of each container, so that any process can find, judge and end it.

A folder per container: spec.json, `upper` (what it has written) and `work` (overlayfs's own), and `status`, where
bubblewrap's monitor writes the id of process 1 and, at its end, its exit code. Left out: how containers are started
(`sandbox.py`) and removed (`containers.py`).
"""

import contextlib
import errno
import json
import os
import select
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from srl_swe.environments.embedded.cgroups import Cgroup

UPPER, WORK, STATUS = "upper", "work", "status"

_SPEC = "spec.json"
_MARK = "srl-swe:"


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerRecord:
    """All that is needed to start a container, again too, and to judge it."""

    name: str
    image: str
    """Id of its image."""
    layers: tuple[str, ...]
    """Of its image, the topmost first."""
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    init: tuple[str, ...]
    workdir: str
    capabilities: tuple[str, ...]
    rlimits: Mapping[str, int]
    """Resource limits of each process, by the names of `resource.RLIMIT_*` in lower case."""
    cgroup: Cgroup

    def write(self, folder: Path) -> None:
        """Write it into a folder that nobody else sees yet."""
        fields = asdict(self) | {"cgroup": {key: str(path) for key, path in self.cgroup.folders.items()}}
        (folder / _SPEC).write_text(json.dumps(fields))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return what was written there, None where the container is gone."""
        try:
            fields: dict[str, Any] = json.loads((folder / _SPEC).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        fields |= {key: tuple(fields[key]) for key in ("layers", "init", "capabilities")}
        fields["cgroup"] = Cgroup(folders={key: Path(path) for key, path in fields["cgroup"].items()})
        return cls(**fields)


def read_status(folder: Path) -> tuple[int | None, int | None]:
    """Return the host's id of process 1, and its exit code; None for what is not known yet."""
    try:
        text = (folder / STATUS).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    found: dict[str, Any] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # half written
            found |= json.loads(line)
    return found.get("child-pid"), found.get("exit-code")


def mark_of(store: Path, name: str) -> str:
    """Return what stands for the container `name` of an engine's folder in the table of mounts."""
    folder = store.stat()
    return f"{_MARK}{folder.st_dev}.{folder.st_ino}:{name}"


def open_init(folder: Path, mark: str) -> int | None:
    """Return a descriptor (pidfd) of process 1 of the container kept in `folder`, None where it does not run."""
    pid, _ = read_status(folder)
    # The id may be another process's by now; only the container's own have its files as their root.
    return None if pid is None else _open(pid, lambda root: root == mark)


def end_processes(folder: Path, mark: str, cgroup: Cgroup, *, timeout_s: float) -> bool:
    """End process 1, and with it all others; False where they do not end in time."""
    descriptor = open_init(folder, mark)
    return descriptor is None or _end(descriptor, cgroup, timeout_s)


def end_strays(store: Path, containers: Path, *, timeout_s: float) -> None:
    """End the containers of an engine's folder that have none of their own: who started them was killed meanwhile."""
    own = mark_of(store, "")

    def is_stray(root: str) -> bool:
        return root.startswith(own) and not (containers / root.removeprefix(own)).exists()

    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            descriptor = _open(int(entry.name), is_stray)
            if descriptor is not None:
                _end(descriptor, Cgroup(folders={}), timeout_s)


def _open(pid: int, is_it: Callable[[str], bool]) -> int | None:
    """Return a descriptor of a process if what is mounted as its root is marked as `is_it` expects."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):  # gone, or (before Linux 6.9) just about to be
            return None
        raise
    found = False
    try:
        root = _root(Path(f"/proc/{pid}/mountinfo").read_text())
        signal.pidfd_send_signal(descriptor, 0)  # it was this process that was looked at
        found = root.startswith(_MARK) and is_it(root)
    except OSError:
        pass
    finally:
        if not found:
            os.close(descriptor)
    return descriptor if found else None


def _root(mounts: str) -> str:
    """Return the source of what is mounted on "/": "36 35 98:0 / / rw - ext4 /dev/root rw" is "/dev/root"."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == "/":
            return after.split()[1]
    return ""


def _end(descriptor: int, cgroup: Cgroup, timeout_s: float) -> bool:
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        cgroup.thaw()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(descriptor)
