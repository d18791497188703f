"""Writes that survive a kill: whole folders and files at once, JSON lines one by one; one writer per folder.

What is written is decided elsewhere. A new folder replaces an old one by renaming. A writer that is killed leaves the
old folder under its name, or under `.NAME.previous` for the instant between two renames; `put_back` undoes that.
"""

import contextlib
import fcntl
import glob
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from srl_swe.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder (made where it is missing) for this process; a kill releases it.

    Raises:
        ConfigError: another process writes into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder}: another process is writing there; wait for it or give another folder"
            ) from error
        yield


def file_name(instance_id: str) -> str:
    """Return a name for files of this instance: its id where that is harmless, else made harmless and unique.

    >>> file_name("astropy__astropy-12907")
    'astropy__astropy-12907'
    """
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]{0,149}", instance_id):
        return instance_id
    harmless = re.sub(r"[^A-Za-z0-9_\-]", "_", instance_id)[:100]
    return f"{harmless}-{hashlib.sha256(instance_id.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file so that a reader sees the old content or the new, never a part."""
    with _written(path.parent, path.name, text) as temporary:
        temporary.replace(path)


def write_numbered(folder: Path, stem: str, suffix: str, text: str) -> Path:
    """Write a whole file atomically under the first free name `<stem>-<number><suffix>`, numbers from 1.

    Nothing is overwritten: threads and processes may share the folder.
    """
    with _written(folder, stem, text) as temporary:
        for number in itertools.count(1):
            path = folder / f"{stem}-{number}{suffix}"
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(temporary)
                return path
    raise AssertionError("there is no last number")


@contextmanager
def _written(folder: Path, name: str, text: str) -> Iterator[Path]:
    """Write a file under a temporary name, on disk before it gets its own; what is left of it is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, made = tempfile.mkstemp(dir=folder, prefix=f".{name[:100]}.")
    temporary = Path(made)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append one record to a JSONL file and wait until the disk has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # ASCII escapes keep lone surrogates (bytes that are no UTF-8) readable by any JSON reader.
    line = json.dumps(record) + "\n"
    with path.open("a", encoding="ascii", newline="") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def repair_last_line(path: Path) -> bool:
    """Cut off a last line that a kill left unfinished; return whether anything was cut.

    A complete record that lacks only its line end is kept and given one.
    """
    if not path.is_file():
        return False
    content = path.read_bytes()
    if not content or content.endswith(b"\n"):
        return False
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
    except ValueError:
        logger.warning("%s: dropped its unfinished last line (%d bytes)", path, len(content) - start)
        os.truncate(path, start)
        return True
    with path.open("ab") as file:
        file.write(b"\n")
        os.fsync(file.fileno())
    return False


@contextmanager
def staged_folder(folder: Path, *, own_files: Collection[str]) -> Iterator[Path]:
    """Give a new folder to write into, which takes the place of `folder` at the end, or vanishes after a failure.

    Raises:
        DataError: `folder` is a file, or holds something else than `own_files`.
    """
    put_back(folder)
    _check_replaceable(folder, own_files)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(folder)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{os.getpid()}.", suffix=".tmp", dir=folder.parent))
    try:
        staging.chmod(0o755)
        yield staging
        _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Undo the first of two renames after which a writer was killed."""
    if not folder.exists() and _previous(folder).is_dir():
        _previous(folder).rename(folder)


def _previous(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.previous"


def _remove_left_over(folder: Path) -> None:
    """Remove what killed writers began; their process ids are in the names."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.*.tmp"):
        writer = path.name.removeprefix(f".{folder.name}.").split(".")[0]
        if writer.isdigit() and not _is_running(int(writer)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _check_replaceable(folder: Path, own_files: Collection[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a file is in the way; name a folder")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in own_files) if folder.exists() else []
    if foreign:
        raise DataError(f"{folder}: holds other files ({', '.join(foreign[:5])}); name a new folder")


def _swap(staging: Path, folder: Path) -> None:
    previous = _previous(folder)
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    staging.rename(folder)
    directory = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    shutil.rmtree(previous, ignore_errors=True)
