"""Writes that survive a kill: whole files at once, JSON lines one by one; one writer per folder.

What is written is decided elsewhere.
"""

import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from srl_swe.errors import ConfigError

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


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
