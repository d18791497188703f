"""Into new namespaces, and into those of a running container: what the tasks of `sandbox.py` have in common.

Left out: what is done there.
"""

import contextlib
import os
import pwd
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srl_swe.environments.embedded import linux
from srl_swe.environments.embedded.container_records import open_init
from srl_swe.errors import ContainerError

_FIRST_ID, _NUM_IDS = 0x7150_0000, 65_536
"""Outside ids for root's containers: above the ranges of users, of /etc/subuid and of systemd-nspawn
(https://systemd.io/UIDS-GIDS), below 2^31."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IdMap:
    """Which ids outside stand for those inside: (first inside, first outside, how many)."""

    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]
    groups: bool
    """Whether supplementary groups can be given up inside."""
    by_helpers: bool = False
    """Written by newuidmap and newgidmap."""

    @classmethod
    def candidates(cls) -> "Iterator[IdMap]":
        """Yield the maps that this process may have, the widest first; the last one everybody may."""
        uid, gid = os.geteuid(), os.getegid()
        if uid == 0 and all(_covers(f"/proc/self/{kind}_map") for kind in ("uid", "gid")):
            whole = ((0, _FIRST_ID, _NUM_IDS),)
            yield cls(uids=whole, gids=whole, groups=True)
        elif shutil.which("newuidmap") and shutil.which("newgidmap"):
            uids, gids = _granted("/etc/subuid", uid), _granted("/etc/subgid", uid)
            if uids and gids:
                yield cls(uids=((0, uid, 1), uids), gids=((0, gid, 1), gids), groups=True, by_helpers=True)
        yield cls(uids=((0, uid, 1),), gids=((0, gid, 1),), groups=False)

    @property
    def root(self) -> tuple[int, int]:
        """The ids outside of the root inside."""
        return self.uids[0][1], self.gids[0][1]

    @property
    def is_own_user(self) -> bool:
        """Whether root inside is, outside, the user that this process belongs to."""
        return self.uids[0][1] == os.geteuid()

    def has(self, uid: int, gid: int) -> bool:
        """Tell whether a user exists inside."""
        return all(
            any(first <= number < first + count for first, _, count in lines)
            for number, lines in ((uid, self.uids), (gid, self.gids))
        )

    def write(self, pid: int) -> None:
        """Give the map to a process that has just moved into a user namespace of its own."""
        if self.by_helpers:
            for program, lines in (("newuidmap", self.uids), ("newgidmap", self.gids)):
                run([program, str(pid), *(str(number) for line in lines for number in line)])
            return
        if not self.groups:
            Path(f"/proc/{pid}/setgroups").write_text("deny")
        for name, lines in (("uid_map", self.uids), ("gid_map", self.gids)):
            Path(f"/proc/{pid}/{name}").write_text("".join("{} {} {}\n".format(*line) for line in lines))


def enter_new(id_map: IdMap, flags: int = 0) -> None:
    """Move into a new user namespace, as its root, and into further new ones that belong to it."""
    us = os.getpid()
    ready, ready_end = os.pipe()
    said, said_end = os.pipe()
    helper = os.fork()  # stays outside, where the ids that are mapped exist
    if helper == 0:
        with ending_with_errors(said_end):
            os.close(ready_end)
            if os.read(ready, 1):
                id_map.write(us)
                os._exit(0)
    os.close(said_end)
    try:
        linux.unshare(linux.CLONE_NEWUSER | flags)
        os.write(ready_end, b"1")
    finally:
        os.close(ready_end)
        os.waitpid(helper, 0)
    if error := read_text(said):
        raise ContainerError(f"the user ids cannot be mapped: {error}")
    os.close(ready)
    os.close(said)
    _become_root()


def enter(arguments: Mapping[str, Any], flags: int) -> None:
    """Join namespaces of a running container, as its root, with all capabilities in there."""
    pidfd = open_init(Path(arguments["folder"]), arguments["mark"])
    if pidfd is None:
        raise ContainerError("it is not running")
    # From now on what runs in there may see this process, which still may more than it.
    linux.hide_from_tracers()
    linux.setns(pidfd, linux.CLONE_NEWUSER | flags)
    os.close(pidfd)
    _become_root()
    os.chdir("/")


def run(argv: list[str]) -> str:
    """Run a program of the host and return its output.

    Raises:
        ContainerError: it failed.
    """
    code, said = run_child(lambda: os.execvpe(argv[0], argv, {"PATH": os.defpath, "LC_ALL": "C"}))
    if code != 0:
        raise ContainerError(f"{argv[0]} ended with exit code {code}: {said.strip()}")
    return said


def run_child(become: Callable[[], object]) -> tuple[int, str]:
    """Do something in a child that ends in another program; return its exit code and what it said."""
    said, said_end = os.pipe()
    child = os.fork()
    if child == 0:
        with ending_with_errors(said_end):
            os.dup2(said_end, 1)
            os.dup2(said_end, 2)
            become()
    os.close(said_end)
    text = read_text(said)
    os.close(said)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


@contextlib.contextmanager
def ending_with_errors(descriptor: int) -> Iterator[None]:
    """End this process whatever happens in the block, after having written the error."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - read by the parent
        os.write(descriptor, describe(error).encode(errors="replace"))
    finally:
        os._exit(1)


def describe(error: BaseException) -> str:
    """Return an error's text for people, with its type where that says more."""
    return str(error) if isinstance(error, OSError | ContainerError) else f"{type(error).__name__}: {error}"


def read_text(descriptor: int) -> str:
    """Return all that comes until the other ends are closed."""
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts).decode(errors="replace")


def set_rlimits(limits: Mapping[str, int]) -> None:
    """Set resource limits, by the names of `resource.RLIMIT_*` in lower case, as far as they may be raised."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name.upper()}")
        highest = resource.getrlimit(kind)[1]
        value = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(kind, (value, value))


def reset_signals() -> None:
    """Give every signal its default effect: what a process ignores, the programs that it starts ignore too."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _become_root() -> None:
    with contextlib.suppress(PermissionError):  # denied where nobody outside vouches for the map
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _covers(path: str) -> bool:
    """Tell whether the ids for root's containers exist in the user namespace of this process."""
    try:
        lines = [tuple(map(int, line.split())) for line in Path(path).read_text().splitlines()]
    except OSError:
        return False
    return any(first <= _FIRST_ID and first + count >= _FIRST_ID + _NUM_IDS for first, _, count in lines)


def _granted(path: str, uid: int) -> tuple[int, int, int] | None:
    """Return the map line for the ids that /etc/subuid or /etc/subgid gives to a user: "name:first:count"."""
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
        lines = [line.split(":") for line in Path(path).read_text().splitlines()]
    except (KeyError, OSError):  # newuidmap refuses users without a name
        return None
    for name, first, count in (line for line in lines if len(line) == 3):
        if name in names and first.isdecimal() and count.isdecimal() and int(count) > 0:
            return (1, int(first), min(int(count), _NUM_IDS - 1))
    return None
