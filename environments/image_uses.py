"""Who uses an image now, over all processes of this machine, and when it was used last.

A lock a name, shared by those who use the image, alone for the one who removes it: the kernel frees what a dead
process held. Containers hold their image themselves; this covers the time before there is one. Left out: when to
remove (`image_eviction.py`).
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from srl_swe.paths import cache_dir


@contextlib.contextmanager
def using_images(*names: str) -> Iterator[None]:
    """Keep every process of this machine from removing these images; waits while one removes them."""
    with contextlib.ExitStack() as stack:
        locks = []
        # In one order for all, though nobody who removes ever waits.
        for path in sorted(_path(name) for name in set(names)):
            lock = _open(path)
            stack.callback(_let_go, lock)
            fcntl.flock(lock, fcntl.LOCK_SH)
            locks.append(lock)
            os.utime(lock)
        yield
        for lock in locks:
            os.utime(lock)


@contextlib.contextmanager
def removing_image(name: str) -> Iterator[bool]:
    """Keep everybody from beginning to use an image; False where somebody uses it."""
    is_new = not _path(name).exists()
    lock = _open(_path(name))
    if is_new:
        os.utime(lock, (0, 0))  # never used
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        _let_go(lock)


def last_used(name: str) -> float:
    """Return when an image was last used on this machine, in seconds since the epoch; 0 = never by this tool."""
    try:
        return _path(name).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _path(name: str) -> Path:
    return cache_dir() / "image-uses" / hashlib.sha256(name.encode()).hexdigest()[:24]


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _let_go(lock: int) -> None:
    # A process that was forked meanwhile has the file open as well, and would go on to hold the lock.
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
