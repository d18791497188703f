"""`srl-swe images gc`: remove images that are certain to come back, until the rest fits into a budget."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from srl_swe.cli.image_options import budget_bytes
from srl_swe.environments.byte_counts import shown_bytes
from srl_swe.environments.image_pulls import PullConfig
from srl_swe.evaluation.progress import printable
from srl_swe.evaluation.splits import load_split
from srl_swe.types import Instance


@dataclass(frozen=True, kw_only=True, slots=True)
class GcConfig:
    """Remove images, the least recently used first, until the rest takes at most a budget.

    Without instances: all images that this tool ever pulled into this engine. With --split or --instances: the images
    of these, also those that are built. An image goes only if it is certain to come back: this tool pulled it, it is
    unchanged since, and its registry still serves the same digest; or this tool built it, and all that it is built from
    is in the cache. Images that somebody brought here by hand stay, as do those in use.

    Example: srl-swe images gc --disk-budget 20GB --dry-run
    """

    disk_budget: str | None = None
    """What may stay, for example 20GB. None = everything goes that can."""
    split: str | None = None
    """Only the images of these instances: a published split by name, or a local file."""
    instances: Path | None = None
    """Only the images of these instances: a local file."""
    dry_run: bool = False
    """Say what would go, and remove nothing."""
    pulls: Annotated[PullConfig, tyro.conf.arg(name="")] = field(default_factory=PullConfig)

    def __post_init__(self) -> None:
        budget_bytes(self.disk_budget)


def collect(config: GcConfig) -> int:
    """Remove the images; exit code 1 where the budget is not met."""
    from srl_swe.environments.connect import connect_engine
    from srl_swe.environments.image_collection import collect_images

    console = Console()
    instances: Sequence[Instance] | None = None
    if config.split is not None or config.instances is not None:
        instances = load_split(config.split or str(config.instances))
    budget = budget_bytes(config.disk_budget) or 0
    with connect_engine() as engine:
        found = collect_images(engine, instances, budget_bytes=budget, pulls=config.pulls, dry_run=config.dry_run)
    would = "would remove" if config.dry_run else "removed"
    lines = [f"{would} {name}: {shown_bytes(freed)}" for name, freed in found.removed]
    lines += [f"stays: {name}: {why}" for name, why in found.kept]
    lines.append(
        f"{would} {len(found.removed)} images, {shown_bytes(found.freed_bytes)}; "
        f"{shown_bytes(found.before_bytes - found.freed_bytes)} of {shown_bytes(found.before_bytes)} "
        f"{'would be' if config.dry_run else 'are'} left"
    )
    for line in lines:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if config.disk_budget is None:
        return 0
    return 0 if found.before_bytes - found.freed_bytes <= budget else 1
