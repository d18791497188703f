"""A set of step examples on disk: a folder with train.jsonl, validation.jsonl and manifest.json.

The steps of a trajectory repeat each other's histories, so one line holds one trajectory with the indices of its
targets; reading expands it to examples with whole histories, one trajectory in memory at a time. Each JSONL file
begins with a line that names the schema version, and so does the manifest. Leaves out the choice of steps (`steps`).

A new set replaces an old one by renaming whole folders. A writer that is killed leaves the old set under its name, or
under `.NAME.previous` for the instant between two renames; reading and writing put it back.
"""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Literal

from srl_swe.errors import DataError
from srl_swe.types import HistoryPair, StepExample

SCHEMA_VERSION = 1
Part = Literal["train", "validation"]
PARTS: tuple[Part, ...] = ("train", "validation")
_MANIFEST = "manifest.json"
_OWN_FILES = frozenset({_MANIFEST, *(f"{part}.jsonl" for part in PARTS)})


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreCounts:
    """What a set holds."""

    num_trajectories: Mapping[str, int]
    """By part."""
    num_examples: Mapping[str, int]
    """By part."""


def write_steps(
    examples: Iterable[StepExample],
    folder: Path,
    *,
    header: Callable[[], Mapping[str, object]] | Mapping[str, object],
    choose_validation: Callable[[Sequence[str]], frozenset[str]] | None = None,
) -> StoreCounts:
    """Write examples as a set, replacing one that is there.

    Args:
        examples: Examples, those of one trajectory next to each other (as `compile_steps` yields them).
        folder: Where the set goes; missing parents are made.
        header: What the manifest tells besides counts and hashes, for example sources, drops and configuration. A
            function is called after the last example, when the drops are counted.
        choose_validation: Gets all instance ids, sorted, each once; returns those held out. None = all are for
            training.

    Raises:
        DataError: there is no example at all, or `folder` is something other than a set of step examples.
    """
    _put_back(folder)
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(folder)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{os.getpid()}.", suffix=".tmp", dir=folder.parent))
    try:
        staging.chmod(0o755)
        counts = _write_set(examples, staging, header, choose_validation)
        _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return counts


def read_steps(folder: Path, part: Part = "train") -> Iterator[StepExample]:
    """Yield the examples of one part, in the order in which they were written.

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
    with path.open(encoding="utf-8") as lines:
        for index, line in enumerate(lines):
            where = f"{path}, line {index + 1}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: not valid JSON ({error}); compile the set again") from None
            if index == 0:
                _check_version(record, where)
                continue
            yield from _expand(record, where)


def read_manifest(folder: Path) -> dict[str, object]:
    """Return the manifest of a set.

    Raises:
        DataError: there is no such set, or it is of another schema version.
    """
    _put_back(folder)
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
    examples: Iterable[StepExample],
    staging: Path,
    header: Callable[[], Mapping[str, object]] | Mapping[str, object],
    choose_validation: Callable[[Sequence[str]], frozenset[str]] | None,
) -> StoreCounts:
    # The split needs all instance ids, the records should not be in memory: so they go to disk first.
    all_records = staging / "records"
    instance_ids: set[str] = set()
    with all_records.open("w", encoding="utf-8") as stream:
        for _, group in groupby(examples, key=lambda example: example.trajectory_id):
            record = _record(list(group))
            instance_ids.add(str(record["instance_id"]))
            _write_line(stream, record)
    if not instance_ids:
        raise DataError("no step example is left after filtering; the old set, if any, was kept. See the drop reasons")
    held_out = choose_validation(sorted(instance_ids)) if choose_validation else frozenset()
    num_trajectories: dict[str, int] = dict.fromkeys(PARTS, 0)
    num_examples: dict[str, int] = dict.fromkeys(PARTS, 0)
    with contextlib.ExitStack() as stack:
        streams = {part: stack.enter_context((staging / f"{part}.jsonl").open("w", encoding="utf-8")) for part in PARTS}
        for part, stream in streams.items():
            _write_line(stream, {"schema_version": SCHEMA_VERSION, "part": part})
        with all_records.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                part = "validation" if record["instance_id"] in held_out else "train"
                streams[part].write(line)
                num_trajectories[part] += 1
                num_examples[part] += len(record["targets"])
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
    all_records.unlink()
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "num_trajectories": num_trajectories,
        "num_examples": num_examples,
        "bytes": {part: (staging / f"{part}.jsonl").stat().st_size for part in PARTS},
        "sha256": {part: _sha256(staging / f"{part}.jsonl") for part in PARTS},
        "validation_instances": sorted(held_out & instance_ids),
        **(header() if callable(header) else header),
    }
    with (staging / _MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    return StoreCounts(num_trajectories=num_trajectories, num_examples=num_examples)


def _record(group: list[StepExample]) -> dict[str, object]:
    """Join the examples of one trajectory: the last one's history holds all earlier steps."""
    last = group[-1]
    thoughts = {example.step_index: example.expert_thought for example in group}
    steps = [
        {"action": pair.action, "observation": pair.observation, "thought": thoughts.get(index, "")}
        for index, pair in enumerate(last.history)
    ]
    steps.append({"action": last.expert_action, "observation": "", "thought": last.expert_thought})
    for example in group:
        assert example.step_index == len(example.history) <= last.step_index, "steps of a trajectory must be in order"
    return {
        "trajectory_id": last.trajectory_id,
        "instance_id": last.instance_id,
        "problem_statement": last.problem_statement,
        "steps": steps,
        "targets": [example.step_index for example in group],
    }


def _expand(record: object, where: str) -> Iterator[StepExample]:
    try:
        assert isinstance(record, dict)
        steps, targets = record["steps"], record["targets"]
        pairs = tuple(HistoryPair(action=step["action"], observation=step["observation"]) for step in steps)
        for index in targets:
            yield StepExample(
                example_id=f"{record['trajectory_id']}#{index}",
                instance_id=record["instance_id"],
                trajectory_id=record["trajectory_id"],
                step_index=index,
                problem_statement=record["problem_statement"],
                history=pairs[:index],
                expert_thought=steps[index]["thought"],
                expert_action=steps[index]["action"],
            )
    except (AssertionError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{where}: not a trajectory record ({error!r}); compile the set again") from None


def _write_line(stream: IO[str], record: Mapping[str, object]) -> None:
    stream.write(json.dumps(record, ensure_ascii=False) + "\n")


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


def _previous(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.previous"


def _put_back(folder: Path) -> None:
    """Undo the first of two renames after which a writer was killed."""
    if not folder.exists() and _previous(folder).is_dir():
        _previous(folder).rename(folder)


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


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a file is in the way; name a folder for the set")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in _OWN_FILES) if folder.exists() else []
    if foreign:
        raise DataError(f"{folder}: holds other files ({', '.join(foreign[:5])}); name a new folder for the set")


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
