"""Which instances of a task set are asked for.

The parts of a choice apply in this order, whatever the order on the command line: ids, repositories, shuffle, slice,
limit. Loading the set is left to `splits`.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from srl_swe.errors import ConfigError, DataError
from srl_swe.types import Instance

_SLICE = re.compile(r"(\d*):(\d*)")
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A part of a task set; by default all of it."""

    instance_ids: tuple[str, ...] = ()
    """1. Only these; * ? [...] match as in a shell ("django__*"). The set's order stays."""
    repo: tuple[str, ...] = ()
    """2. Only instances of these repositories (owner/name)."""
    shuffle: int | None = None
    """3. Shuffled with this seed; the same seed and set give the same order."""
    slice: str | None = None
    """4. START:STOP, counted from 0, STOP left out: 0:50 is the first fifty."""
    limit: int | None = None
    """5. Only the first so many."""

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
        kept = _of_repos(_with_ids(instances, self.instance_ids), self.repo)
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(kept)
        start, stop = self._bounds()
        chosen = tuple(kept[start:stop][: self.limit])
        if not chosen:
            raise DataError(
                f"no instances to evaluate: of {len(instances)} instances, {len(kept)} match the ids and repositories, "
                f"and the slice {self.slice or 'of all'} leaves none of them"
            )
        return chosen

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
