"""A set of step examples on disk: a folder with train.jsonl, validation.jsonl, manifest.json and DATASHEET.md.

The steps of a trajectory repeat each other's histories, so one line holds one trajectory with the indices of its
targets; reading expands it to examples with whole histories, one trajectory in memory at a time. Each JSONL file
begins with a line that names the schema version, and so does the manifest. Leaves out the choice of steps (`steps`).

A new set replaces an old one by renaming whole folders. A writer that is killed leaves the old set under its name, or
under `.NAME.previous` for the instant between two renames; reading and writing put it back.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from srl_swe.errors import DataError
from srl_swe.files import put_back, staged_folder
from srl_swe.trajectories.datasheet import data_sheet
from srl_swe.trajectories.steps import step_examples
from srl_swe.types import CompiledTrajectory, Step, StepExample, Trajectory

SCHEMA_VERSION = 2
Part = Literal["train", "validation"]
PARTS: tuple[Part, ...] = ("train", "validation")
_MANIFEST = "manifest.json"
_DATA_SHEET = "DATASHEET.md"
REPLAY = "replay.jsonl"
"""What a replay of a set found, kept in its folder."""
PROFILE = "profile.jsonl"
"""Rewards that a model got on a set's steps, kept in its folder."""
REPORT = "report.html"
"""The report on a set, kept in its folder."""
_OWN_FILES = frozenset({_MANIFEST, _DATA_SHEET, REPLAY, PROFILE, REPORT, *(f"{part}.jsonl" for part in PARTS)})
Header = Callable[[], Mapping[str, object]] | Mapping[str, object]
ChooseValidation = Callable[[Sequence[str]], frozenset[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexEntry:
    """What the split needs to know of one record."""

    instance_id: str
    num_targets: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreCounts:
    """What a set holds."""

    num_trajectories: Mapping[str, int]
    """By part."""
    num_examples: Mapping[str, int]
    """By part."""


def write_steps(
    compiled: Iterable[CompiledTrajectory],
    folder: Path,
    *,
    header: Header,
    choose_validation: ChooseValidation | None = None,
) -> StoreCounts:
    """Write compiled trajectories as a set, replacing one that is there.

    Args:
        compiled: What goes in, for example from `compile_trajectories`.
        folder: Where the set goes; missing parents are made.
        header: What the manifest tells besides counts and hashes, for example sources, drops and configuration. A
            function is called after the last trajectory, when the drops are counted.
        choose_validation: Gets all instance ids, sorted, each once; returns those held out. None = all are for
            training.

    Raises:
        DataError: there is no step at all, or `folder` is something other than a set of step examples.
    """
    with staged_folder(folder, own_files=_OWN_FILES) as staging:
        # The split needs all instance ids, the records should not be in memory: so they go to disk first.
        records = staging / "records"
        index: list[IndexEntry] = []
        with records.open("wb") as stream:
            for item in compiled:
                stream.write(encode_record(item))
                index.append(IndexEntry(instance_id=item.trajectory.instance_id, num_targets=len(item.targets)))
        counts = _write_set(records, index, staging, header, choose_validation)
        records.unlink()
        _carry_over(folder, staging)
    return counts


def write_records(
    records: Path,
    index: Sequence[IndexEntry],
    folder: Path,
    *,
    header: Header,
    choose_validation: ChooseValidation | None = None,
) -> StoreCounts:
    """Write records that `encode_record` made and that lie in a file, line by line as `index` says; else as above."""
    with staged_folder(folder, own_files=_OWN_FILES) as staging:
        counts = _write_set(records, index, staging, header, choose_validation)
        _carry_over(folder, staging)
    return counts


def read_steps(folder: Path, part: Part = "train") -> Iterator[StepExample]:
    """Yield the examples of one part, in the order in which they were written.

    Raises:
        DataError: there is no such set, it is of another schema version, or it is damaged.
    """
    for compiled in read_compiled(folder, part):
        yield from step_examples(compiled)


def read_compiled(folder: Path, part: Part = "train") -> Iterator[CompiledTrajectory]:
    """Yield the trajectories of one part with their targets, in the order in which they were written.

    Raises:
        DataError: there is no such set, it is of another schema version, or it is damaged.
    """
    manifest = read_manifest(folder)
    path = folder / f"{part}.jsonl"
    expected = _number(manifest, "bytes", part, folder)
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        raise DataError(
            f"{path}: {'missing' if found is None else f'{found} bytes'}, but the manifest says {expected} bytes; "
            "the set is damaged: compile it again"
        )
    with path.open("rb") as lines:
        for index, line in enumerate(lines):
            where = f"{path}, line {index + 1}"
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise DataError(f"{where}: not valid JSON ({error}); compile the set again") from None
            if index == 0:
                _check_version(record, where)
                continue
            yield _decoded(record, where)


def encode_record(compiled: CompiledTrajectory) -> bytes:
    """Return the line of a compiled trajectory, line break included."""
    trajectory = compiled.trajectory
    record = {
        "trajectory_id": trajectory.trajectory_id,
        "instance_id": trajectory.instance_id,
        "source": trajectory.source,
        "model": trajectory.model,
        "resolved": trajectory.resolved,
        "exit_status": trajectory.exit_status,
        "problem_statement": trajectory.problem_statement,
        "steps": [
            {
                "thought": step.thought,
                "action": step.action,
                "observation": step.observation,
                "exit_code": step.exit_code,
            }
            for step in trajectory.steps
        ],
        "targets": compiled.targets,
        "patch": trajectory.patch,
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def read_manifest(folder: Path) -> dict[str, object]:
    """Return the manifest of a set.

    Raises:
        DataError: there is no such set, or it is of another schema version.
    """
    put_back(folder)
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: no set of step examples here ({_MANIFEST} is missing); compile one first") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    _check_version(manifest, str(path))
    assert isinstance(manifest, dict)
    return manifest


def _write_set(
    records: Path,
    index: Sequence[IndexEntry],
    staging: Path,
    header: Header,
    choose_validation: ChooseValidation | None,
) -> StoreCounts:
    instance_ids = {entry.instance_id for entry in index}
    if not instance_ids:
        raise DataError("no step example is left after filtering; the old set, if any, was kept. See the drop reasons")
    held_out = choose_validation(sorted(instance_ids)) if choose_validation else frozenset()
    num_trajectories: dict[str, int] = dict.fromkeys(PARTS, 0)
    num_examples: dict[str, int] = dict.fromkeys(PARTS, 0)
    with contextlib.ExitStack() as stack:
        streams = {part: stack.enter_context((staging / f"{part}.jsonl").open("wb")) for part in PARTS}
        for part, stream in streams.items():
            stream.write(orjson.dumps({"schema_version": SCHEMA_VERSION, "part": part}) + b"\n")
        with records.open("rb") as lines:
            for entry, line in zip(index, lines, strict=True):
                part = "validation" if entry.instance_id in held_out else "train"
                streams[part].write(line)
                num_trajectories[part] += 1
                num_examples[part] += entry.num_targets
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
    hashes = {part: _sha256(staging / f"{part}.jsonl") for part in PARTS}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "content_hash": hashlib.sha256("".join(hashes.values()).encode()).hexdigest(),
        "num_trajectories": num_trajectories,
        "num_examples": num_examples,
        "bytes": {part: (staging / f"{part}.jsonl").stat().st_size for part in PARTS},
        "sha256": hashes,
        "validation_instances": sorted(held_out & instance_ids),
        **(header() if callable(header) else header),
    }
    _write_text(staging / _MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    _write_text(staging / _DATA_SHEET, data_sheet(manifest))
    return StoreCounts(num_trajectories=num_trajectories, num_examples=num_examples)


def _carry_over(folder: Path, staging: Path) -> None:
    """Keep what was found out about a set where the new one holds the same."""
    hashes = []
    for manifest in (folder / _MANIFEST, staging / _MANIFEST):
        try:
            hashes.append(json.loads(manifest.read_text(encoding="utf-8")).get("content_hash"))
        except (OSError, ValueError, AttributeError):
            return
    if hashes[0] == hashes[1]:
        for name in (REPLAY, PROFILE, REPORT):
            if (folder / name).is_file():
                shutil.copy2(folder / name, staging / name)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _decoded(record: object, where: str) -> CompiledTrajectory:
    try:
        assert isinstance(record, dict)
        steps = tuple(
            Step(
                thought=step["thought"],
                action=step["action"],
                observation=step["observation"],
                exit_code=step["exit_code"],
            )
            for step in record["steps"]
        )
        targets = tuple(record["targets"])
        assert all(0 <= index < len(steps) for index in targets), "a target is no step"
        fields = ("trajectory_id", "instance_id", "problem_statement", "patch", "source", "model", "exit_status")
        trajectory = Trajectory(steps=steps, resolved=record["resolved"], **{field: record[field] for field in fields})
        return CompiledTrajectory(trajectory=trajectory, targets=targets)
    except (AssertionError, KeyError, TypeError) as error:
        raise DataError(f"{where}: not a trajectory record ({error!r}); compile the set again") from None


def _check_version(record: object, where: str) -> None:
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{where}: schema version {version!r}, but this program reads version {SCHEMA_VERSION}; "
            "compile the set again, or use the program that wrote it"
        )


def _number(manifest: Mapping[str, object], field: str, part: Part, folder: Path) -> int:
    values = manifest.get(field)
    value = values.get(part) if isinstance(values, dict) else None
    if not isinstance(value, int):
        raise DataError(f"{folder / _MANIFEST}: `{field}.{part}` must be a whole number, found {value!r}")
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
