"""Published trajectory files -> `Trajectory`, one at a time, each format told by its content.

Holds the walk over files and rows. Leaves out what a format looks like (one module each).
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import clean_text
from srl_swe.trajectories.formats import mini_swe_agent, swe_gym, swe_smith
from srl_swe.trajectories.formats.detect import UNDERSTOOD, FormatName, detect_format, looks_like_trajectory
from srl_swe.trajectories.formats.drops import NOTES, ROW_REASONS, DropCounter, Reason
from srl_swe.types import Trajectory

__all__ = ["NOTES", "ROW_REASONS", "DropCounter", "Reason", "read_trajectories"]

SUFFIXES = (".json", ".jsonl", ".traj")
_UNKNOWN = "unknown"


class _Reader(Protocol):
    """Reads one row of a format; None = it cannot be used, and `drops` says why. Raises DataError for a bad field."""

    def __call__(
        self, row: Mapping[str, object], *, path: Path, where: str, drops: DropCounter
    ) -> Trajectory | None: ...


_READERS: Mapping[FormatName, _Reader] = {
    "mini_swe_agent": mini_swe_agent.read_row,
    "swe_gym_openhands_sampled": swe_gym.read_sampled_row,
    "swe_gym_openhands_sft": swe_gym.read_sft_row,
    "swe_smith": swe_smith.read_row,
}
_COPY_NUMBER = re.compile(r"^(.*(?:__.*-\d+|\.pr_\d+|\.\w+__[a-z0-9]{8}))_\d+$")
"""Collections number several runs on one instance (`owner__name-123_0`); one instance must keep one id, or the split
by instance would put it on both sides."""


def read_trajectories(paths: Sequence[Path], *, drops: DropCounter) -> Iterator[Trajectory]:
    """Yield the trajectories of files and folders (recursively), reading one row at a time.

    A file that is named must be understood. In a folder, files that hold no trajectories are passed over and rows
    of other formats or damaged ones counted in `drops`, as long as something is understood. Rows with the same
    instance and actions as an earlier one are dropped: the same run in another encoding.

    Raises:
        DataError: a path is missing or not readable; a named file holds something that is not understood; a folder
            holds nothing that is.
    """
    seen_contents: set[bytes] = set()
    seen_ids: set[str] = set()
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        elif path.is_file():
            files = [path]
        else:
            raise DataError(f"{path}: no such file or folder; expected trajectories ({', '.join(SUFFIXES)})")
        num_understood = 0
        for file in files:
            for where, row in _rows(file, is_named=path.is_file(), drops=drops):
                understood, trajectory = _read_row(row, file, where, is_named=path.is_file(), drops=drops)
                num_understood += understood
                if trajectory is None:
                    continue
                trajectory = _cleaned(trajectory)
                if not trajectory.steps:
                    drops.drop(trajectory.source, Reason.NO_STEPS, where)
                    continue
                content = _content_hash(trajectory)
                if content in seen_contents:
                    drops.drop(trajectory.source, Reason.DUPLICATE, where)
                    continue
                seen_contents.add(content)
                trajectory_id = trajectory.trajectory_id
                if not trajectory_id or trajectory_id in seen_ids:
                    trajectory_id = f"{trajectory_id or trajectory.instance_id}:{content.hex()[:12]}"
                seen_ids.add(trajectory_id)
                yield replace(trajectory, trajectory_id=trajectory_id)
        if not num_understood:
            raise DataError(
                f"{path}: no trajectory was understood in {len(files)} file(s) with the endings "
                f"{', '.join(SUFFIXES)}; understood are {'; '.join(UNDERSTOOD)}"
            )


def _read_row(
    row: object, file: Path, where: str, *, is_named: bool, drops: DropCounter
) -> tuple[bool, Trajectory | None]:
    """Return whether the row's format is understood, and its trajectory where it is usable."""
    if not isinstance(row, Mapping) or not looks_like_trajectory(row):
        if is_named:
            raise DataError(f"{where}: {_unknown_message(row)}")
        drops.note(_UNKNOWN, Reason.PASSED_OVER_FILE, where)
        return False, None
    name = detect_format(row)
    if name is None:
        if is_named:
            raise DataError(f"{where}: {_unknown_message(row)}")
        drops.drop(_UNKNOWN, Reason.UNKNOWN_FORMAT, where)
        return False, None
    try:
        return True, _READERS[name](row, path=file, where=where, drops=drops)
    except DataError as error:
        if is_named:
            raise DataError(f"{where} ({name}): {error}") from None
        drops.drop(name, Reason.BAD_FIELD, f"{where}: {error}")
        return True, None


def _unknown_message(row: object) -> str:
    found = (
        f"an object with the fields {sorted(map(str, row))[:12]}" if isinstance(row, Mapping) else type(row).__name__
    )
    return f"not a trajectory in a format that is understood; found {found}; understood are {'; '.join(UNDERSTOOD)}"


def _rows(file: Path, *, is_named: bool, drops: DropCounter) -> Iterator[tuple[str, object]]:
    """Yield (place, row) of a file: JSON lines, one JSON document, or a list of rows."""
    try:
        if file.suffix != ".jsonl":
            text = file.read_text(encoding="utf-8", errors="replace")
            try:
                document = json.loads(text)
            except json.JSONDecodeError as error:
                # JSON lines under a .json name: the first line is a whole document.
                if not error.msg.startswith("Extra data"):
                    _bad_json(str(file), error, is_named=is_named, drops=drops)
                    return
            else:
                yield from _document_rows(file, document)
                return
        with file.open(encoding="utf-8", errors="replace") as lines:
            for index, line in enumerate(lines):
                if not line.strip():
                    continue
                where = f"{file}, row {index}"
                try:
                    row = json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    _bad_json(where, error, is_named=is_named, drops=drops)
                    continue
                yield where, row
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        _bad_json(str(file), error, is_named=is_named, drops=drops)


def _document_rows(file: Path, document: object) -> Iterator[tuple[str, object]]:
    if not isinstance(document, list):
        yield str(file), document
    elif document and all(isinstance(item, Mapping) and "role" in item for item in document):
        yield str(file), {"messages": document}
    else:
        for index, row in enumerate(document):
            yield f"{file}, row {index}", row


def _bad_json(where: str, error: Exception, *, is_named: bool, drops: DropCounter) -> None:
    if is_named:
        raise DataError(f"{where}: not valid JSON ({error}); the file may be truncated: fetch it again") from None
    drops.drop(_UNKNOWN, Reason.BAD_JSON, where)


def _cleaned(trajectory: Trajectory) -> Trajectory:
    """Make the fields that the readers copy as they are safe to encode; steps and problem statement are already."""
    return replace(
        trajectory,
        trajectory_id=clean_text(trajectory.trajectory_id),
        instance_id=_COPY_NUMBER.sub(r"\1", clean_text(trajectory.instance_id)),
        patch=clean_text(trajectory.patch),
        model=clean_text(trajectory.model),
    )


def _content_hash(trajectory: Trajectory) -> bytes:
    digest = hashlib.sha256(trajectory.instance_id.encode())
    for step in trajectory.steps:
        digest.update(b"\0" + step.action.encode())
    return digest.digest()
