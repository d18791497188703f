"""Options about images that several commands have."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from srl_swe.environments.byte_counts import parse_bytes
from srl_swe.environments.image_pulls import PullConfig
from srl_swe.errors import ConfigError
from srl_swe.evaluation.choice import Choice
from srl_swe.evaluation.splits import load_split
from srl_swe.types import Instance

if TYPE_CHECKING:
    from srl_swe.environments.engine import Engine
    from srl_swe.environments.image_supply import ImageSupply


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSetOptions:
    """Which instances."""

    split: str | None = None
    """verified, lite, lite-dev, full, dev, multilingual, multimodal-dev; or owner/name:split on the hub; or a local
    file."""
    instances: Path | None = None
    """Local file of instances (.jsonl, .json, .parquet): SWE-bench v5 rows or source-distribution rows."""
    choice: Annotated[Choice, tyro.conf.arg(name="")] = field(default_factory=Choice)

    def __post_init__(self) -> None:
        if (self.split is None) == (self.instances is None):
            raise ConfigError("say which instances: exactly one of --split and --instances")

    def load(self) -> tuple[Instance, ...]:
        """Return the instances. Raises DataError, MissingExtraError."""
        return load_split(self.split or str(self.instances), self.choice)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunImageOptions:
    """How a run gets its images."""

    disk_budget: str | None = None
    """Most that the images of the chosen instances may take on the engine's disk, each shared layer once, for example
    60GB. Images come in an order that shares layers, a few ahead of the work; the least recently used go, if this tool
    pulled or built them. None = nothing is removed."""
    images_ahead: int = 2
    """Images brought before their work begins, with --disk-budget or --mirror."""
    pulls: Annotated[PullConfig, tyro.conf.arg(name="")] = field(default_factory=PullConfig)

    def __post_init__(self) -> None:
        budget_bytes(self.disk_budget)
        if self.images_ahead < 0:
            raise ConfigError(f"images_ahead must be at least 0, not {self.images_ahead}")

    @property
    def wanted(self) -> bool:
        """Whether anything is to be brought in a way of its own."""
        return self.disk_budget is not None or self.pulls != PullConfig()

    def supply(self, engine: "Engine", instances: Sequence[Instance]) -> "ImageSupply | None":
        """Return what brings the images of a run; None = each comes when it is needed.

        Raises:
            ConfigError: the budget cannot hold every image.
            ContainerError: the engine failed.
        """
        from srl_swe.environments.image_supply import ImageSupply

        if not self.wanted:
            return None
        return ImageSupply(
            engine,
            instances,
            budget_bytes=budget_bytes(self.disk_budget),
            pulls=self.pulls,
            ahead=self.images_ahead,
        )


def budget_bytes(text: str | None) -> int | None:
    """Return the bytes of a --disk-budget. Raises ConfigError."""
    return None if text is None else parse_bytes(text, what="disk_budget")
