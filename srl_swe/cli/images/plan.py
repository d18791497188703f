"""`srl-swe images plan`: what the images of a task set take, before anything is pulled."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Column, Table

from srl_swe.cli.image_options import TaskSetOptions, budget_bytes
from srl_swe.environments.byte_counts import shown_bytes
from srl_swe.environments.image_pulls import PullConfig
from srl_swe.evaluation.progress import printable


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """Say what the images of the chosen instances take: here and missing, shared layers, the highest disk use.

    Sizes of images that are or were here are the engine's. Of the others the registry's manifests give the layers and
    what is to be downloaded; on disk three times that is assumed of compressed layers. Pulls and removes nothing, but a
    registry that limits pulls counts each manifest that is asked for as one; what it said is kept for the next time.

    Example: srl-swe images plan --split verified --disk-budget 60GB
    """

    task_set: Annotated[TaskSetOptions, tyro.conf.arg(name="")]
    disk_budget: str | None = None
    """Budget of the run that is planned, for example 60GB. None = nothing is removed."""
    at_once: int = 6
    """Images in use or on their way at a time: --max-parallel of the run (4) and --images-ahead (2)."""
    ask_registries: bool = True
    """Ask registries about images that were never here."""
    list_images: bool = False
    """List every image, in the order in which a run takes them."""
    pulls: Annotated[PullConfig, tyro.conf.arg(name="")] = field(default_factory=PullConfig)

    def __post_init__(self) -> None:
        budget_bytes(self.disk_budget)


def plan(config: PlanConfig) -> int:
    """Print the plan; exit code 1 where the budget cannot hold every image."""
    from srl_swe.environments.connect import connect_engine
    from srl_swe.environments.image_plan import plan_images

    console = Console()
    instances = config.task_set.load()
    budget = budget_bytes(config.disk_budget)
    with connect_engine() as engine:
        found = plan_images(
            engine,
            instances,
            budget_bytes=budget,
            at_once=config.at_once,
            pulls=config.pulls,
            ask_registries=config.ask_registries,
        )
        can_pull = engine.can_pull
    if config.list_images:
        table = Table(
            "",
            Column("image", overflow="fold"),
            "instances",
            "bytes",
            "on top of those before",
            "known from",
            "",
            box=None,
        )
        for number, planned in enumerate(found.images, start=1):
            words = planned.stays and f"stays: {planned.stays}"
            row = [str(number), planned.image.name, str(len(planned.image.instance_ids))]
            row += [
                shown_bytes(planned.size.total_bytes),
                shown_bytes(planned.more_bytes),
                planned.size.known_from,
                words,
            ]
            table.add_row(*map(printable, row))
        console.print(table)
    num_missing = len(found.images) - found.num_here
    lines = [
        f"{len(found.images)} images of {found.num_instances} instances: {found.num_here} here, {num_missing} missing",
        f"all images: {shown_bytes(found.total_bytes)}, with shared layers once {shown_bytes(found.unique_bytes)}",
        f"here: {shown_bytes(found.here_bytes)}; missing: {shown_bytes(found.missing_bytes)} on disk, "
        f"{shown_bytes(found.download_bytes)} to download",
        f"smallest budget that holds every image: {shown_bytes(found.smallest_budget_bytes)}",
    ]
    for source, words in (
        ("registry", "estimated from compressed layers"),
        ("nothing", "assumed"),
    ):
        if count := sum(planned.size.known_from == source for planned in found.images):
            lines.append(f"sizes of {count} images are {words}")
    fits = budget is None or found.smallest_budget_bytes <= budget
    if budget is None:
        lines.append(f"without a budget these images take {shown_bytes(found.forecast.peak_bytes)} in the end")
    elif fits:
        lines.append(
            f"within {shown_bytes(budget)}: at most {shown_bytes(found.forecast.peak_bytes)} at a time, "
            f"{found.forecast.num_fetched} images come, {found.forecast.num_evictions} go"
        )
    else:
        lines.append(f"a budget of {shown_bytes(budget)} does not hold every image")
    if num_missing and not can_pull:
        lines.append("this engine reads no registry: images that are not built here come as files (docs/images.md)")
    lines += [f"not found out: {problem}" for problem in found.problems[:5]]
    if len(found.problems) > 5:
        lines.append(f"… and {len(found.problems) - 5} more")
    for line in lines:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    return 0 if fits else 1
