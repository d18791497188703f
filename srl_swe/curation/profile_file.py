"""A profile on disk: how it was made, and the rewards that a model got on each step of a set.

JSON lines: the header, then one record a step in the set's order. Written by one process at a time, appended and
synced, so that a kill costs at most an unfinished last line. Leaves out sampling (`profile`) and the choice of steps
(`pivots`). Imports no torch.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from srl_swe.errors import CheckpointError, ConfigError, DataError, ModelError
from srl_swe.files import repair_last_line
from srl_swe.training.advantages import population_std

SCHEMA_VERSION = 1
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_NOT_THE_MODEL = ("trainer_", "srl_swe_", "validation.json")
"""What training writes beside a model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileHeader:
    """All that decides the rewards of a profile."""

    content_hash: str
    """Of the set, from its manifest."""
    part: str
    model: str
    """Folder of the model as it was given; the model may move, so only its fingerprint counts."""
    model_fingerprint: str
    samples: int
    temperature: float
    seed: int
    max_prompt_tokens: int
    max_completion_tokens: int
    dtype: str
    prompts: Mapping[str, object]
    """The domain's options."""

    def differences(self, other: "ProfileHeader") -> list[str]:
        """Say what differs, each as "name: this one's value then, the other's now"."""
        then, now = self._deciding(), other._deciding()
        names = [name for name in then | now if then.get(name) != now.get(name)]
        return [f"{name}: {then.get(name)!r} then, {now.get(name)!r} now" for name in names]

    def _deciding(self) -> dict[str, object]:
        options = {name: value for name, value in asdict(self).items() if name not in ("model", "prompts")}
        return {**options, **self.prompts}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepProfile:
    """What one step's group got."""

    example_id: str
    prompt_tokens: int
    skipped: str = ""
    """Why it was not sampled; "" = it was."""
    rewards: tuple[float, ...] = ()
    well_formed: int = 0
    """Number of completions that kept the format."""
    similarity_std: float = 0.0
    """Population std of the similarities of the well-formed completions: the spread apart from the format."""

    @property
    def mean(self) -> float:
        """Return the mean reward, malformed completions included."""
        assert self.rewards, f"{self.example_id} was not sampled"
        return sum(self.rewards) / len(self.rewards)

    @property
    def std(self) -> float:
        """Return the population std of the rewards, that of the format included."""
        return population_std(self.rewards)

    def as_record(self) -> dict[str, object]:
        """Return its line in the file."""
        record: dict[str, object] = {"example_id": self.example_id, "prompt_tokens": self.prompt_tokens}
        if self.skipped:
            return record | {"skipped": self.skipped}
        return record | {
            "rewards": list(self.rewards),
            "well_formed": self.well_formed,
            "mean": self.mean,
            "std": self.std,
            "similarity_std": self.similarity_std,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A profile as it was read."""

    header: ProfileHeader
    steps: tuple[StepProfile, ...]


class ProfileWriter:
    """Appends to the profile that this process holds."""

    def __init__(self, path: Path, stream: TextIO, done: frozenset[str]) -> None:
        self._path, self._stream = path, stream
        self.done = done
        """Ids of the steps that were there when it was opened."""

    def append(self, records: Iterable[Mapping[str, object]]) -> None:
        """Write lines and wait until the disk has them.

        Raises:
            CheckpointError: the disk is full, or the like.
        """
        try:
            self._stream.write("".join(json.dumps(record) + "\n" for record in records))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise CheckpointError(
                f"{self._path} cannot be written: {error}. What it holds is intact; free some space and run the same "
                "command again."
            ) from error


@contextmanager
def open_profile(path: Path, header: ProfileHeader) -> Iterator[ProfileWriter]:
    """Begin a profile, or go on with one that was made in the same way.

    Raises:
        ConfigError: the file holds a profile that was made in another way, or another process is writing it.
        DataError: it holds something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file stays open: a set that is compiled anew meanwhile takes it away, and gets none of these lines.
    with path.open("a", encoding="ascii", newline="") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{path}: another process is writing it; wait for it, or give --out FILE") from error
        repair_last_line(path)
        found = read_profile(path) if path.stat().st_size else None
        differences = found.header.differences(header) if found else []
        if found and found.steps and differences:
            raise ConfigError(
                f"{path} holds a profile that differs ({'; '.join(differences)}). Give the same options to go on, "
                "--out FILE to write another profile, or delete it."
            )
        steps = found.steps if found else ()
        writer = ProfileWriter(path, stream, frozenset(step.example_id for step in steps))
        if found is None or differences:
            # A header without steps, of a run that failed before its first batch, protects nothing.
            stream.truncate(0)
            writer.append([{"schema_version": SCHEMA_VERSION, **asdict(header)}])
        yield writer


def read_profile(path: Path) -> Profile:
    """Read a whole profile.

    Raises:
        DataError: it is missing, damaged, or no profile.
    """
    header, steps = None, {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{path}, line {number}"
                if header is None:
                    header = _header(_parsed(line, where), where)
                    continue
                step = _step(_parsed(line, where), where)
                if step.example_id in steps:
                    raise DataError(f"{where}: step {step.example_id} is there twice; delete one of its lines")
                steps[step.example_id] = step
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; make a profile with `srl-swe data profile`") from error
    if header is None:
        raise DataError(f"{path}: empty; make a profile with `srl-swe data profile`")
    return Profile(header=header, steps=tuple(steps.values()))


def fingerprint_model(folder: Path) -> str:
    """Return a hash over all files that decide what the model says: weights, configuration, tokenizer.

    Raises:
        ModelError: there is no such folder.
    """
    if not folder.is_dir():
        raise ModelError(f"no model folder at {folder}: give a local folder with config.json, weights and tokenizer")
    found = {path.name: path for pattern in _MODEL_FILES for path in folder.glob(pattern)}
    digest = hashlib.sha256()
    for name in sorted(found):
        if not name.startswith(_NOT_THE_MODEL):
            with found[name].open("rb") as stream:
                digest.update(f"{name}:".encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{where}: not JSON ({error}); the command that wrote it cuts off an unfinished line when it goes on"
        ) from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, found {line[:80]!r}")
    return record


def _header(record: dict[str, Any], where: str) -> ProfileHeader:
    version = record.pop("schema_version", None)
    if version != SCHEMA_VERSION or record.keys() != {field.name for field in fields(ProfileHeader)}:
        raise DataError(
            f"{where}: expected the header of a profile of schema version {SCHEMA_VERSION}, found version {version!r} "
            f"with {', '.join(record) or 'nothing'}; make the profile again"
        )
    return ProfileHeader(**record)


def _step(record: dict[str, Any], where: str) -> StepProfile:
    try:
        step = StepProfile(
            example_id=str(record["example_id"]),
            prompt_tokens=int(record["prompt_tokens"]),
            skipped=str(record.get("skipped", "")),
            rewards=tuple(float(reward) for reward in record.get("rewards", ())),
            well_formed=int(record.get("well_formed", 0)),
            similarity_std=float(record.get("similarity_std", 0.0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: not a step's record ({error!r}); make the profile again") from error
    if bool(step.skipped) == bool(step.rewards):
        raise DataError(f"{where}: expected either rewards or why the step was skipped; make the profile again")
    return step
