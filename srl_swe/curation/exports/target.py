"""What a target of an export is, and what its files know of the export they lie in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from srl_swe.prompts import PromptLimits
from srl_swe.trajectories.datasheet import SOURCES, Source
from srl_swe.trajectories.store import Part
from srl_swe.types import Message, StepExample

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a row stands."""

    part: Part
    index: int
    """Of the example in its part of the set, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What is known when the rows are written."""

    manifest: Mapping[str, object]
    """Of the compiled set."""
    limits: PromptLimits
    num_rows: Mapping[Part, int]
    """Only parts that have rows; each of them is a file."""
    left_out: Mapping[str, int]
    """Examples without a row, by reason."""

    @property
    def licences(self) -> dict[str, str]:
        """Return the licence of each source, by what it was published as."""
        counts = self.manifest.get("trajectories")
        names = [str(name) for name in counts] if isinstance(counts, Mapping) else []
        sources = (SOURCES.get(name, Source(name=name, licence="unknown")) for name in names)
        return {source.name: source.licence for source in sources}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A trainer that reads the files."""

    title: str
    row: Callable[[StepExample, list[Message], Place], Row]
    """(example, its rendered prompt, its place) -> row; raises MalformedCompletionError where there can be none."""
    suffix: Literal[".jsonl", ".parquet"]
    data_folder: str = "."
    """Where the rows' files lie in the export."""
    usage: Callable[[Export], str]
    """Markdown: how the files are used."""
    further_files: Callable[[Export], Mapping[str, str]] = lambda export: {}
    """Path in the export -> text, besides rows and README.md."""
