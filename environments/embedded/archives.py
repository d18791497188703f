"""Tar archives into and out of a file system that may be hostile.

Runs in a job (`jobs.py`) whose root is the container's, or a layer's folder: whatever a symbolic link says, it leads
no further than that. Imports nothing late, asks no name service, opens nothing that could block.
"""

import contextlib
import errno
import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
"""https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts"""
_OPAQUE_ATTRIBUTE = "user.overlay.opaque"
"""https://docs.kernel.org/filesystems/overlayfs.html, with `userxattr`."""
_CHUNK_BYTES = 1 << 20
_VANISHED = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
"""Also what lies so deep that no path reaches it."""

# Looking up the names of users would load name-service modules from below the root of the moment (CVE-2019-14271).
setattr(tarfile, "pwd", None)  # noqa: B010
setattr(tarfile, "grp", None)  # noqa: B010


def unpack(source: IO[bytes], folder: Path, *, compressed: bool = False, whiteouts: bool = False) -> None:
    """Unpack a tar into an existing folder: owners as it says where they exist here, no devices.

    What is in the way is replaced, as Docker does; a folder is merged with a folder. With `whiteouts` it is an image
    layer, and what it says to be missing from the layers below becomes an overlayfs whiteout.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder")
    folders: list[tuple[tarfile.TarInfo, Path]] = []
    with tarfile.open(fileobj=source, mode="r|*" if compressed else "r|") as archive:
        for member in archive:
            target = _below(folder, member.name)
            if target == folder:
                folders.append((member, target))
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if whiteouts and target.name == _OPAQUE:
                os.setxattr(target.parent, _OPAQUE_ATTRIBUTE, b"y")
            elif whiteouts and target.name.startswith(_WHITEOUT):
                hidden = target.with_name(target.name.removeprefix(_WHITEOUT))
                _clear(hidden, keep_folder=False)
                os.mknod(hidden, stat.S_IFCHR, 0)
            elif not (member.ischr() or member.isblk()):
                _clear(target, keep_folder=member.isdir())
                _make(archive, member, target, folder)
                if member.isdir():
                    folders.append((member, target))
                elif not member.islnk():
                    _set_attributes(member, target)
    for member, target in reversed(folders):
        _set_attributes(member, target)


def pack(target: IO[bytes], path: str) -> None:
    """Write a tar of a path, whose names begin with the path's last part.

    What vanishes meanwhile is left out; of what changes meanwhile, as many bytes are written as there were at first.
    """
    top = Path(posixpath.normpath(path))
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for found in _walk(top):
            _add(archive, found, str(found.relative_to(top.parent)))


def link_target(path: str) -> str:
    """Return the absolute path that a symbolic link stands for in the end, "" for anything else.

    Raises:
        FileNotFoundError: there is no such path.
    """
    return os.path.realpath(path) if stat.S_ISLNK(os.lstat(path).st_mode) else ""


def _below(folder: Path, name: str) -> Path:
    """Return where in a folder a member of an archive belongs; ".." leads no further up than the folder."""
    return folder / posixpath.normpath(f"/{name}").lstrip("/")


def _make(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, folder: Path) -> None:
    """Make a file, folder, link or pipe that is not there yet (a folder may be)."""
    if member.isdir():
        target.mkdir(mode=0o700, exist_ok=True)
    elif member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        os.link(_below(folder, member.linkname), target, follow_symlinks=False)
    elif member.isfifo():
        os.mkfifo(target, 0o600)
    else:
        content = archive.extractfile(member)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            if content is not None:
                shutil.copyfileobj(content, file, _CHUNK_BYTES)


def _set_attributes(member: tarfile.TarInfo, target: Path) -> None:
    """Set owner, mode and time, in this order: a new owner takes the set-user-id bit away."""
    with contextlib.suppress(OSError):  # an owner that has no number in this user namespace
        os.chown(target, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        target.chmod(member.mode & 0o7777)
    os.utime(target, (member.mtime, member.mtime), follow_symlinks=False)


def _clear(path: Path, *, keep_folder: bool) -> None:
    """Remove what is at a path, unless it is a folder and one is to be there."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
        elif not keep_folder:
            shutil.rmtree(path)


def _walk(top: Path) -> Iterator[Path]:
    """Yield a path and all below it, without recursion: the depth is the container's choice."""
    waiting = [top]
    while waiting:
        found = waiting.pop()
        yield found
        with _leaving_out_what_vanishes():
            if stat.S_ISDIR(found.lstat().st_mode):
                waiting += sorted(found.iterdir(), reverse=True)


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    member = None
    with _leaving_out_what_vanishes():
        member = archive.gettarinfo(path, name)
    if member is None:  # or a socket
        return
    if not member.isreg():
        archive.addfile(member)
        return
    try:
        # A pipe in the place of the file would block, a link would lead elsewhere.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    with os.fdopen(descriptor, "rb") as file:
        archive.addfile(member, _Padded(file))  # type: ignore[arg-type]


@contextlib.contextmanager
def _leaving_out_what_vanishes() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _VANISHED:
            raise


class _Padded:
    """Reads zeros where a file has become shorter than it was."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._file.read(size) or b""
        return data + bytes(size - len(data))
