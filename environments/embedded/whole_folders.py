"""Folders that appear whole and vanish whole, whatever is killed meanwhile.

A folder is filled under a name that begins with ".new-" and renamed to its own one; it is renamed to a name that
begins with ".gone-" and emptied. Who works on such a folder holds a lock on it, so that one without a lock is what a
dead process left. Left out: what is in them, and how they are emptied (`engine.py`).
"""

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from srl_swe.errors import EngineTimeoutError

_NEW, _GONE = ".new-", ".gone-"


@contextlib.contextmanager
def new_folder(parent: Path, *, owner: tuple[int, int], mode: int = 0o700) -> Iterator[Path]:
    """Make a folder to fill and to rename; what was not renamed is left to `leftovers`."""
    while True:
        path = parent / f"{_NEW}{secrets.token_hex(8)}"
        path.mkdir(mode=mode)
        with _hold(path) as held:
            if not held:  # taken for a dead process's in the moment before the lock
                continue
            os.chown(path, *owner)
            yield path
            return


@contextlib.contextmanager
def retired(path: Path) -> Iterator[Path | None]:
    """Take a folder away under its name, and yield the one it has now; None where another process was first."""
    gone = path.parent / f"{_GONE}{secrets.token_hex(8)}"
    try:
        path.rename(gone)
    except FileNotFoundError:
        yield None
        return
    with _hold(gone) as held:
        yield gone if held else None


def whole(parent: Path) -> Iterator[Path]:
    """Return the finished ones among the folders in `parent`."""
    for entry in sorted(parent.iterdir()):
        if not entry.name.startswith("."):
            yield entry


def leftovers(parent: Path) -> Iterator[Path]:
    """Yield, each with a lock on it, the unfinished and the retired folders that no living process works on."""
    for entry in sorted(parent.iterdir()):
        if entry.name.startswith((_NEW, _GONE)):
            with _hold(entry) as held:
                if held:
                    yield entry


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold the lock of that file over all processes and threads.

    Raises:
        EngineTimeoutError: another one held it all the time.
    """
    deadline = time.monotonic() + timeout_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise EngineTimeoutError(f"{path} has been locked for {timeout_s:.0f} s; which process hangs?")
            time.sleep(0.002)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _hold(path: Path) -> Iterator[bool]:
    """Lock a folder while it is worked on; False where somebody else does, or where it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(descriptor) and path.exists()
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EINTR):
            return False
        raise
    return True
