"""Which instances of a task set are asked for.

The parts of a choice apply in this order, whatever the order on the command line: ids, excluded ids, repositories,
shuffle, slice, limit. Loading the set is left to `splits`.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from srl_swe.errors import ConfigError, DataError
from srl_swe.types import Instance

_SLICE = re.compile(r"(\d*):(\d*)")
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A part of a task set; by default all of it."""

    instance_ids: tuple[str, ...] = ()
    """1. Only these; * ? [...] match as in a shell ('django__*', quoted). @FILE names a file with one id a line. The
    set's order stays."""
    exclude_ids: tuple[str, ...] = ()
    """2. Not these, for example @gold-failures.txt; how many that are is said, and stands in the record."""
    repo: tuple[str, ...] = ()
    """3. Only instances of these repositories (owner/name)."""
    shuffle: int | None = None
    """4. Shuffled with this seed; the same seed and set give the same order."""
    slice: str | None = None
    """5. START:STOP, counted from 0, STOP left out: 0:50 is the first fifty."""
    limit: int | None = None
    """6. Only the first so many."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1 or None (= all), not {self.limit}")
        if self.slice is not None:
            self._bounds()

    def of(self, instances: Sequence[Instance]) -> tuple[Instance, ...]:
        """Return the chosen instances.

        Raises:
            DataError: an id, pattern or repository matches nothing, or nothing is left.
        """
        ids = _ids(self.instance_ids)
        if self.instance_ids and not ids:
            raise DataError(f"{' '.join(self.instance_ids)}: names no instance ids, expected one a line")
        wanted = _with_ids(instances, ids)
        excluded = self.excluded(instances)
        kept = _of_repos([instance for instance in wanted if instance.instance_id not in excluded], self.repo)
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(kept)
        start, stop = self._bounds()
        chosen = tuple(kept[start:stop][: self.limit])
        if not chosen:
            raise DataError(
                f"no instances to evaluate: of {len(instances)} instances, {len(kept)} match the ids and repositories"
                f"{f' ({len(excluded)} are excluded)' if excluded else ''}, "
                f"and the slice {self.slice or 'of all'} leaves none of them"
            )
        return chosen

    def excluded(self, instances: Sequence[Instance]) -> frozenset[str]:
        """Return the ids that `exclude_ids` takes out of a set.

        Raises:
            DataError: an id or pattern matches nothing, or a file cannot be read.
        """
        patterns = _ids(self.exclude_ids)
        return frozenset(instance.instance_id for instance in (_with_ids(instances, patterns) if patterns else ()))

    def described(self) -> str:
        """Return the options of this choice, for the record; empty = the whole set. Long lists are counted."""
        parts = []
        for name in ("instance_ids", "exclude_ids"):
            ids = _ids(getattr(self, name))
            if ids:
                parts.append(f"--{name.replace('_', '-')} {' '.join(ids) if len(ids) <= 3 else f'({len(ids)} ids)'}")
        if self.repo:
            parts.append(f"--repo {' '.join(self.repo)}")
        options = (("shuffle", self.shuffle), ("slice", self.slice), ("limit", self.limit))
        return " ".join([*parts, *(f"--{name} {value}" for name, value in options if value is not None)])

    def _bounds(self) -> tuple[int, int | None]:
        if self.slice is None:
            return 0, None
        found = _SLICE.fullmatch(self.slice)
        start, stop = (int(found[1] or 0), int(found[2]) if found[2] else None) if found else (0, 0)
        if not found or (stop is not None and stop <= start):
            raise ConfigError(
                f"slice {self.slice!r}: expected START:STOP with 0 <= START < STOP, for example 0:50, 100: or :20"
            )
        return start, stop


def _ids(words: Sequence[str]) -> list[str]:
    """Return ids and patterns, those of files read: one a line, blank lines and lines that begin with # left out."""
    found = []
    for word in words:
        if not word.startswith("@"):
            found.append(word)
            continue
        try:
            lines = Path(word[1:]).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{word[1:]}: instance ids cannot be read, expected one a line: {error}") from error
        found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return found


def _with_ids(instances: Sequence[Instance], wanted: Sequence[str]) -> list[Instance]:
    if not wanted:
        return list(instances)
    ids = {instance.instance_id for instance in instances}
    patterns = [name for name in wanted if name not in ids and _MAGIC.search(name)]
    unknown = sorted(set(wanted) - ids - set(patterns))
    if unknown:
        shown = ", ".join(unknown[:10]) + (", …" if len(unknown) > 10 else "")
        raise DataError(f"{len(unknown)} instance ids are not among the {len(instances)} instances: {shown}")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ids):
            raise DataError(
                f"{pattern!r} matches none of the {len(instances)} instance ids; quote patterns in the shell"
            )
    names = set(wanted)
    return [
        instance
        for instance in instances
        if instance.instance_id in names or any(fnmatchcase(instance.instance_id, pattern) for pattern in patterns)
    ]


def _of_repos(instances: list[Instance], wanted: Sequence[str]) -> list[Instance]:
    if not wanted:
        return instances
    known = {instance.repo for instance in instances}
    unknown = sorted(set(wanted) - known)
    if unknown:
        shown = ", ".join(sorted(known)[:20]) + (", …" if len(known) > 20 else "")
        raise DataError(f"no instance is of the repository {', '.join(unknown)}; the repositories are: {shown}")
    return [instance for instance in instances if instance.repo in wanted]
