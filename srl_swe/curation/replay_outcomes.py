"""What a replay found, and its file: one JSON line for each trajectory, in the folder of the set.

Holds the types, reading and appending. Leaves out how the outcomes come about (`replay`, `replay_steps`).
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from srl_swe.errors import ConfigError
from srl_swe.files import append_json_line, repair_last_line, write_atomically
from srl_swe.trajectories.store import REPLAY, read_manifest
from srl_swe.types import VerdictStatus

SCHEMA_VERSION = 1
StepStatus = Literal["reproduced", "differs", "failed"]
ShellKind = Literal["persistent", "fresh"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutcome:
    """What came of one recorded command."""

    index: int
    """Index of the step in its trajectory, from 0."""
    status: StepStatus
    reason: str = ""
    """Why it is not reproduced."""
    recorded_exit_code: int | None = None
    exit_code: int | None = None
    duration_s: float = 0.0
    timed_out: bool = False
    """The time limit ended the replayed command."""
    reordered: bool = False
    """The lines of the observation are the recorded ones in another order."""
    difference: str = ""
    """Bounded unified diff from the recorded to the replayed observation, both normalised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchOutcome:
    """How the work tree at the end compares with the recorded patch."""

    equal: bool
    difference: str = ""
    """Bounded unified diff of the two patches."""
    problem: str = ""
    """Why the work tree gave no patch; "" = it gave one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectoryOutcome:
    """What came of replaying one trajectory."""

    trajectory_id: str
    instance_id: str
    source: str
    shell: ShellKind
    steps: tuple[StepOutcome, ...]
    """One for each command; `submit` is none."""
    patch: PatchOutcome | None
    """None = the replay did not come to its end."""
    verdict: VerdictStatus | None = None
    """What the hidden tests say of the replayed patch; None = they were not run."""
    verdict_reason: str = ""
    failure: str = ""
    """Why the replay did not come to its end: the infrastructure failed. "" = it did."""
    duration_s: float = 0.0

    @property
    def is_final(self) -> bool:
        """Whether nothing failed that may go well another time."""
        return not self.failure and self.verdict != "invalid"

    @property
    def depends_on_speed(self) -> bool:
        """Whether a time limit ended a command: how far it had come, and so what follows, depends on the machine."""
        return any(step.timed_out for step in self.steps)

    def num_steps(self, status: StepStatus) -> int:
        """Return how many steps have this status."""
        return sum(step.status == status for step in self.steps)


_OUTCOME: TypeAdapter[TrajectoryOutcome] = TypeAdapter(TrajectoryOutcome)


class ReplayFile:
    """The outcomes of one set. Lines of another set, or of an older form, are dropped when it is opened to write."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError where `folder` holds no set."""
        self._folder = folder
        self._path = folder / REPLAY
        self._content_hash = str(read_manifest(folder).get("content_hash"))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the file for this process, mended where a kill cut it and free of what is not this set's.

        Raises:
            ConfigError: another process replays the set.
        """
        # The folder itself is locked: a lock file in it would keep the set from being compiled anew.
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            repair_last_line(self._path)
            self._drop_foreign()
            yield
        except BlockingIOError as error:
            raise ConfigError(f"{self._folder}: another process is replaying this set; wait for it") from error
        finally:
            os.close(folder)

    def load(self) -> dict[str, tuple[str, TrajectoryOutcome]]:
        """Return (key, outcome) by trajectory id; the last line on a trajectory counts."""
        found: dict[str, tuple[str, TrajectoryOutcome]] = {}
        for record in self._records():
            if not self._is_own(record):
                continue
            try:
                outcome = _OUTCOME.validate_python(record["outcome"])
            except (ValidationError, KeyError) as error:
                logger.warning(
                    "%s: a damaged line is passed over, its trajectory is replayed again: %s", self._path, error
                )
                continue
            found[outcome.trajectory_id] = str(record.get("key")), outcome
        return found

    def append(self, key: str, outcome: TrajectoryOutcome) -> None:
        """Add an outcome; `key` stands for everything besides the set that decides it."""
        append_json_line(
            self._path,
            {
                "schema_version": SCHEMA_VERSION,
                "content_hash": self._content_hash,
                "key": key,
                "outcome": asdict(outcome),
            },
        )

    def _is_own(self, record: dict[str, Any]) -> bool:
        return record.get("schema_version") == SCHEMA_VERSION and record.get("content_hash") == self._content_hash

    def _records(self) -> Iterator[dict[str, Any]]:
        if not self._path.is_file():
            return
        with self._path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict):
                        yield record

    def _drop_foreign(self) -> None:
        if not self._path.is_file():
            return
        own = [json.dumps(record) + "\n" for record in self._records() if self._is_own(record)]
        with self._path.open("rb") as lines:
            num_foreign = sum(1 for _ in lines) - len(own)
        if num_foreign:
            logger.warning(
                "%s: dropped %d lines that are not of this set; they are replayed again", self._path, num_foreign
            )
            write_atomically(self._path, "".join(own))


def read_replay(folder: Path) -> dict[str, TrajectoryOutcome]:
    """Return what a replay of a set found, by trajectory id; {} where there was none.

    Raises:
        DataError: there is no set in `folder`.
    """
    return {trajectory_id: outcome for trajectory_id, (_, outcome) in ReplayFile(folder).load().items()}
