"""Published trajectory files -> `Trajectory`, one at a time, each format told by its content.

Holds the walk over files and rows. Leaves out what a format looks like (one module each).
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import clean_text
from srl_swe.trajectories.formats import (
    mini_swe_agent,
    nebius_openhands,
    nebius_swe_agent,
    openhands,
    swe_agent,
    swe_gym,
    swe_smith,
)
from srl_swe.trajectories.formats.detect import UNDERSTOOD, FormatName, detect_format, looks_like_trajectory
from srl_swe.trajectories.formats.drops import NOTES, ROW_REASONS, DropCounter, Reason
from srl_swe.trajectories.inputs import ENDINGS, Chunk, list_files, read_chunks, rows_of
from srl_swe.types import Trajectory

__all__ = [
    "NOTES",
    "ROW_REASONS",
    "DropCounter",
    "Duplicates",
    "Reading",
    "Reason",
    "check_understood",
    "read_chunk",
    "read_trajectories",
]

_UNKNOWN = "unknown"


class _Reader(Protocol):
    """Reads one row of a format; None = it cannot be used, and `drops` says why. Raises DataError for a bad field."""

    def __call__(
        self, row: Mapping[str, object], *, path: Path, where: str, drops: DropCounter
    ) -> Trajectory | None: ...


_READERS: Mapping[FormatName, _Reader] = {
    "mini_swe_agent": mini_swe_agent.read_row,
    "nebius_openhands": nebius_openhands.read_row,
    "nebius_swe_agent": nebius_swe_agent.read_row,
    "openhands": openhands.read_row,
    "swe_agent": swe_agent.read_row,
    "swe_gym_openhands_sampled": swe_gym.read_sampled_row,
    "swe_gym_openhands_sft": swe_gym.read_sft_row,
    "swe_smith": swe_smith.read_row,
}
_COPY_NUMBER = re.compile(r"^(.*(?:__.*-\d+|\.pr_\d+|\.\w+__[a-z0-9]{8}))_\d+$")
"""Collections number several runs on one instance (`owner__name-123_0`); one instance must keep one id, or the split
by instance would put it on both sides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What became of one row."""

    trajectory: Trajectory | None
    """None = it cannot be used; `drops` says why."""
    where: str
    input_index: int
    is_understood: bool
    """The row is in a format that is understood, usable or not."""
    content: bytes
    """Hash of instance and actions: equal for the same run in two encodings."""
    drops: DropCounter


def read_trajectories(paths: Sequence[Path], *, drops: DropCounter) -> Iterator[Trajectory]:
    """Yield the trajectories of files and folders (recursively), reading one row at a time.

    A file that is named must be understood. In a folder, files that hold no trajectories are passed over and rows
    of other formats or damaged ones counted in `drops`, as long as something is understood. Rows with the same
    instance and actions as an earlier one are dropped: the same run in another encoding.

    Raises:
        DataError: a path is missing or not readable; a named file holds something that is not understood; a folder
            holds nothing that is.
    """
    duplicates = Duplicates()
    num_understood: Counter[int] = Counter()
    for file in list_files(paths):
        for chunk in read_chunks(file):
            for reading in read_chunk(chunk):
                num_understood[reading.input_index] += reading.is_understood
                trajectory_id = duplicates.admit(reading, drops)
                if reading.trajectory is not None and trajectory_id is not None:
                    yield replace(reading.trajectory, trajectory_id=trajectory_id)
    check_understood(paths, num_understood)


def read_chunk(chunk: Chunk) -> Iterator[Reading]:
    """Yield what becomes of each row of a chunk.

    Raises:
        DataError: a row of a named file is not understood.
    """
    if chunk.kind == "problem":
        drops = DropCounter()
        drops.drop(_UNKNOWN, Reason(chunk.problem or Reason.BAD_FILE), chunk.content.decode("utf-8", "replace"))
        yield _reading(chunk, str(chunk.path), None, False, drops)
        return
    for where, row in rows_of(chunk):
        drops = DropCounter()
        is_understood, trajectory = _read_row(row, chunk.path, where, is_named=chunk.is_named, drops=drops)
        if trajectory is not None:
            trajectory = _cleaned(trajectory)
            if not trajectory.steps:
                drops.drop(trajectory.source, Reason.NO_STEPS, where)
                trajectory = None
        yield _reading(chunk, where, trajectory, is_understood, drops)


class Duplicates:
    """Tells runs that were seen before, in whatever file or encoding."""

    def __init__(self) -> None:
        self._contents: set[bytes] = set()
        self._ids: set[str] = set()

    def admit(self, reading: Reading, drops: DropCounter) -> str | None:
        """Return a trajectory id that no other has, or None for a run that is unusable or was seen; count why."""
        trajectory = reading.trajectory
        if trajectory is not None and reading.content in self._contents:
            drops.drop(trajectory.source, Reason.DUPLICATE, reading.where)
            return None
        drops.merge(reading.drops)
        if trajectory is None:
            return None
        trajectory_id = trajectory.trajectory_id
        if trajectory_id in self._ids:
            drops.note(trajectory.source, Reason.REUSED_ID, f"{reading.where}: {trajectory_id}")
        if not trajectory_id or trajectory_id in self._ids:
            trajectory_id = f"{trajectory_id or trajectory.instance_id}:{reading.content.hex()[:12]}"
        self.remember(reading.content, trajectory_id)
        return trajectory_id

    def remember(self, content: bytes, trajectory_id: str) -> None:
        """Count a run as seen."""
        self._contents.add(content)
        self._ids.add(trajectory_id)


def check_understood(paths: Sequence[Path | str], num_understood: Mapping[int, int]) -> None:
    """Check that every path held something that is understood.

    Raises:
        DataError: one did not.
    """
    for index, path in enumerate(paths):
        if not num_understood.get(index):
            raise DataError(
                f"{path}: no trajectory was understood in files with the endings {', '.join(ENDINGS)}; "
                f"understood are {'; '.join(UNDERSTOOD)}"
            )


def _reading(
    chunk: Chunk, where: str, trajectory: Trajectory | None, is_understood: bool, drops: DropCounter
) -> Reading:
    return Reading(
        trajectory=trajectory,
        where=where,
        input_index=chunk.input_index,
        is_understood=is_understood,
        content=_content_hash(trajectory) if trajectory else b"",
        drops=drops,
    )


def _read_row(
    row: object, file: Path, where: str, *, is_named: bool, drops: DropCounter
) -> tuple[bool, Trajectory | None]:
    """Return whether the row's format is understood, and its trajectory where it is usable."""
    if isinstance(row, ValueError):
        if is_named:
            raise DataError(f"{where}: not valid JSON ({row}); the file may be truncated: fetch it again")
        drops.drop(_UNKNOWN, Reason.BAD_JSON, where)
        return False, None
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
    return (
        f"not a trajectory in a format that is understood; found {found}; understood are {'; '.join(UNDERSTOOD)}. "
        "Where fields were renamed, rename them back to those of the published format"
    )


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
    digest = hashlib.blake2b(trajectory.instance_id.encode(), digest_size=16)
    for step in trajectory.steps:
        digest.update(b"\0" + step.action.encode())
    return digest.digest()
