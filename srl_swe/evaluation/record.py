"""evaluation.json: what an evaluation asked for and what became of each instance, in one file.

It makes the output folder complete in itself: pages, comparisons and submission kits are made from it later, without
the task rows and without an engine. Figures are left to `report`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from srl_swe.errors import DataError
from srl_swe.evaluation.results import VerdictStore, row_hash
from srl_swe.evaluation.stability import stability
from srl_swe.files import write_atomically
from srl_swe.types import Instance, Prediction, Verdict, VerdictStatus

RECORD_FILE = "evaluation.json"
SCHEMA_VERSION = 1

Outcome = Literal["resolved", "unresolved", "invalid", "pending", "not predicted"]


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="ignore"))
class InstanceOutcome:
    """What became of one instance."""

    instance_id: str
    repo: str
    difficulty: str = ""
    row: str
    """Hash of what judges it: the same instance id with another one is not the same task."""
    outcome: Outcome
    reason: str = ""
    duration_s: float = 0.0
    verdict: str | None = None
    """File of the stored verdict, relative to the evaluation's folder."""
    gradings: tuple[VerdictStatus, ...] = ()
    """What every grading of the same patch found, the one that counts first; empty where it was graded once."""
    unstable_tests: tuple[str, ...] = ()
    """Tests whose outcome was not the same in all gradings."""

    @property
    def flaky(self) -> bool:
        """Whether gradings of the same patch came to different verdicts; failures of infrastructure are none."""
        return len(set(self.gradings) - {"invalid"}) > 1


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="ignore"))
class EvaluationRecord:
    """One evaluation."""

    split: str
    """As it was asked for: a short name, a hub data set or a file's name; empty = not said."""
    model: str
    harness: str
    wall_s: float
    instances: tuple[InstanceOutcome, ...]
    """In the order asked for."""
    models: tuple[str, ...] = ()
    """Every name under which predictions were made, sorted."""
    choice: str = ""
    """Which part of the set was asked for, as options; empty = all of it."""
    schema_version: int = SCHEMA_VERSION

    def count(self, outcome: Outcome) -> int:
        """Return how many instances ended so."""
        return sum(instance.outcome == outcome for instance in self.instances)


_RECORD: TypeAdapter[EvaluationRecord] = TypeAdapter(EvaluationRecord)


def outcomes(
    instances: Sequence[Instance],
    predictions: Sequence[Prediction],
    rounds: Sequence[Mapping[str, Verdict]],
    invalid_episodes: Mapping[str, str],
    *,
    store: VerdictStore,
    folder: Path,
) -> tuple[InstanceOutcome, ...]:
    """Say of every instance what became of it.

    `rounds` has the verdicts of each grading by instance id; the first one counts.
    """
    verdicts = rounds[0]
    patches = {prediction.instance_id: prediction.model_patch for prediction in predictions}
    found = []
    for instance in instances:
        name = instance.instance_id
        verdict = verdicts.get(name)
        outcome: Outcome = "pending" if name in patches else "not predicted"
        reason = ""
        if verdict is not None:
            outcome, reason = verdict.status, verdict.reason
        elif name not in patches and name in invalid_episodes:
            outcome, reason = "invalid", invalid_episodes[name]
        path = store.path(instance, patches[name]) if verdict is not None else None
        stable = stability([graded[name] for graded in rounds if name in graded])
        found.append(
            InstanceOutcome(
                instance_id=name,
                repo=instance.repo,
                difficulty=instance.difficulty,
                row=row_hash(instance),
                outcome=outcome,
                reason=reason,
                duration_s=verdict.duration_s if verdict else 0.0,
                verdict=str(path.relative_to(folder)) if path else None,
                gradings=stable.statuses,
                unstable_tests=stable.tests,
            )
        )
    return tuple(found)


def write_record(folder: Path, record: EvaluationRecord) -> None:
    """Write evaluation.json at once."""
    text = json.dumps(_RECORD.dump_python(record, mode="json"), indent=1)
    write_atomically(folder / RECORD_FILE, text + "\n")


def read_record(folder: Path) -> EvaluationRecord:
    """Read the record of an evaluation.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = folder / RECORD_FILE
    try:
        record = _RECORD.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: no {RECORD_FILE}; expected the output folder of `srl-swe eval` (run the same evaluation once "
            "more: what is graded is not graded again, and the file is written)"
        ) from error
    except (OSError, ValidationError) as error:
        raise DataError(f"{path}: not a record of an evaluation: {error}") from error
    for instance in record.instances:
        if instance.verdict is not None and not _inside(folder, folder / instance.verdict):
            raise DataError(f"{path}: instance {instance.instance_id}: {instance.verdict!r} leads out of the folder")
    return record


def _inside(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
