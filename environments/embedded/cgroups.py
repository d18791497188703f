"""Control groups: what a container of the embedded engine may use of memory, processors and processes.

Version 1 (one tree per controller) and version 2 (one tree), found where this process may write. Left out: what
stands in for them where it may not (`sandbox.py`).
"""

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from srl_swe.environments.limits import ContainerLimits

CONTROLLERS = ("memory", "pids", "cpu")
"""What `ContainerLimits` needs. Version 1 freezes by a controller of its own, version 2 without one."""

_FREEZER = "freezer"
_CPU_PERIOD_US = 100_000
_OWN_PROCESSES = 1
"""Processes of ours in each group: bubblewrap's monitor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cgroup:
    """The group of one container: a folder per controller, on version 2 the same one for all."""

    folders: Mapping[str, Path]

    @classmethod
    def named(cls, name: str, parents: Mapping[str, Path]) -> Self:
        """Return the group of that name below what `find_parents` returned; `make` makes it."""
        return cls(folders={controller: parent / name for controller, parent in parents.items()})

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folders, each once."""
        return tuple(dict.fromkeys(self.folders.values()))

    @property
    def entrances(self) -> list[str]:
        """The files that a process writes "0" to in order to be in the group."""
        return [str(path / "cgroup.procs") for path in self.paths]

    @property
    def views(self) -> list[tuple[str, str]]:
        """What a process in it can mount to see the group: kind of file system and controller ("" for all)."""
        if any((path / "cgroup.controllers").exists() for path in self.paths):
            return [("cgroup2", "")]
        return [("cgroup", controller) for controller in self.folders if controller in CONTROLLERS]

    def make(self, limits: ContainerLimits) -> None:
        """Make the folders and write the limits. Raises OSError."""
        for path in self.paths:
            path.mkdir(exist_ok=True)
        quota_us = round(min(limits.cpus, float(os.cpu_count() or 1)) * _CPU_PERIOD_US)
        values: dict[str, dict[str, int | str]] = {
            "memory": {
                "memory.limit_in_bytes": limits.memory_bytes,
                "memory.memsw.limit_in_bytes": limits.memory_bytes,
                "memory.max": limits.memory_bytes,
                "memory.swap.max": 0,
            },
            "pids": {"pids.max": limits.max_processes + _OWN_PROCESSES},
            "cpu": {"cpu.cfs_quota_us": quota_us, "cpu.max": f"{quota_us} {_CPU_PERIOD_US}"},
        }
        for controller, path in self.folders.items():
            files = [(path / name, value) for name, value in values.get(controller, {}).items()]
            present = [(file, value) for file, value in files if file.exists()]
            if controller in values and not present:
                raise FileNotFoundError(f"{path}: the controller {controller} is not enabled there")
            for file, value in present:
                file.write_text(str(value))

    @contextlib.contextmanager
    def frozen(self, *, timeout_s: float) -> Iterator[None]:
        """Keep all processes still; nothing happens where groups cannot be frozen (`can_freeze`)."""
        try:
            for path in self._freezers():
                self._freeze(path, timeout_s)
            yield
        finally:
            self.thaw()

    @property
    def can_freeze(self) -> bool:
        """Whether `frozen` does anything."""
        return bool(self._freezers())

    def thaw(self) -> None:
        """Let processes go on; what is killed while frozen ends only then."""
        for path in self._freezers():
            file, _, word = _freezer_words(path)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                file.write_text(word)

    def num_oom_kills(self) -> int:
        """Return how many processes were ended because memory ran out."""
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(KeyError, OSError):
                text = (self.folders["memory"] / name).read_text()
                return int(dict(line.split() for line in text.splitlines())["oom_kill"])
        return 0

    def remove(self, *, timeout_s: float) -> bool:
        """End what is left in it and remove it; False where that does not work in time."""
        deadline = time.monotonic() + timeout_s
        left = list(self.paths)
        while left:
            try:
                left[-1].rmdir()
                left.pop()
            except FileNotFoundError:
                left.pop()
            except OSError:  # busy: processes are still ending
                if time.monotonic() > deadline:
                    return False
                self._kill(left[-1])
                time.sleep(0.002)
        return True

    def _kill(self, path: Path) -> None:
        self.thaw()
        with contextlib.suppress(OSError):
            for pid in (path / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    if pid != "0":  # of another process-id namespace
                        os.kill(int(pid), signal.SIGKILL)

    def _freezers(self) -> list[Path]:
        if _FREEZER in self.folders:
            return [self.folders[_FREEZER]]
        return [path for path in self.paths if (path / "cgroup.freeze").exists()]

    def _freeze(self, path: Path, timeout_s: float) -> None:
        file, word, _ = _freezer_words(path)
        file.write_text(word)
        report, expected = (path / "cgroup.events", "frozen 1") if word == "1" else (file, word)
        deadline = time.monotonic() + timeout_s
        while expected not in report.read_text().splitlines():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path}: its processes could not be stopped within {timeout_s:.0f} s")
            time.sleep(0.001)
            if word != "1":
                file.write_text(word)  # version 1 tries only when asked


def _freezer_words(path: Path) -> tuple[Path, str, str]:
    """Return the file that freezes, the word for it, and the word against it."""
    if (path / "freezer.state").exists():
        return path / "freezer.state", "FROZEN", "THAWED"
    return path / "cgroup.freeze", "1", "0"


def find_parents(processes: Path = Path("/proc/self")) -> dict[str, Path]:
    """Return the folder to make groups in, for each controller that works. Forks: for a small process only."""
    try:
        mounts = (processes / "mountinfo").read_text()
        memberships = (processes / "cgroup").read_text()
    except OSError:
        return {}
    own = {}
    for line in memberships.splitlines():  # "4:memory:/user.slice", "0::/user.slice"
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    version_1: dict[str, Path] = {}
    version_2: dict[str, Path] = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup":
            for controller in {*CONTROLLERS, _FREEZER} & set(options.split(",")) & own.keys():
                folder = _below(Path(point), root, own[controller])
                if controller not in version_1 and _works({controller: folder}):
                    version_1[controller] = folder
        elif kind == "cgroup2" and not version_2 and "" in own:
            version_2 = _version_2_parent(Path(point), _below(Path(point), root, own[""]))
    return {**version_2, **version_1}


def _below(point: Path, root: str, path: str) -> Path:
    """Return where a group lies below a mount point that shows the tree from `root` on."""
    relative = os.path.relpath(path, root)
    return point if relative.startswith("..") else point / relative


def _version_2_parent(point: Path, own: Path) -> dict[str, Path]:
    """Return the folder with the most controllers among those whose groups this process could be moved to.

    A folder that holds processes itself cannot hand controllers down, so its own group is none of them.
    """
    best: dict[str, Path] = {}
    candidates = [folder for folder in own.parents if folder.is_relative_to(point)] or [point]
    for folder in candidates:
        available = _hand_down(folder)
        found = {controller: folder for controller in CONTROLLERS if controller in available}
        if len(found) > len(best) and _works(found):
            best = found
    return best


def _hand_down(folder: Path) -> list[str]:
    """Have the groups below a folder use what controllers it can give them; return those."""
    switch = folder / "cgroup.subtree_control"
    try:
        available = (folder / "cgroup.controllers").read_text().split()
        for controller in set(CONTROLLERS) & set(available) - set(switch.read_text().split()):
            with contextlib.suppress(OSError):
                switch.write_text(f"+{controller}")
        return switch.read_text().split()
    except OSError:
        return []


def _works(parents: Mapping[str, Path]) -> bool:
    """Try it: make a group, limit it, and see whether processes may be moved there."""
    name = f"srl-swe-probe-{secrets.token_hex(4)}"
    group = Cgroup.named(name, parents)
    try:
        group.make(ContainerLimits())
        child = os.fork()
        if child == 0:
            _join_and_exit(group)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            group.remove(timeout_s=1)


def _join_and_exit(group: Cgroup) -> None:
    code = 1
    try:
        for entrance in group.entrances:
            descriptor = os.open(entrance, os.O_WRONLY)
            os.write(descriptor, b"0")
            os.close(descriptor)
        code = 0
    finally:
        os._exit(code)
