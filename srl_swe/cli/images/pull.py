"""`srl-swe images pull`: bring the images of a task set, as many as a budget holds."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from srl_swe.cli.image_options import TaskSetOptions, budget_bytes
from srl_swe.environments.byte_counts import shown_bytes
from srl_swe.environments.image_pulls import PullConfig
from srl_swe.evaluation.progress import printable


@dataclass(frozen=True, kw_only=True, slots=True)
class PullCommandConfig:
    """Bring the images of the chosen instances: pull them, or build those that come from source distributions.

    What is here already is not pulled again, so the same command goes on where it stopped. Nothing is removed.

    Example: srl-swe images pull --split lite --disk-budget 60GB --mirror mirror.example.org/hub
    """

    task_set: Annotated[TaskSetOptions, tyro.conf.arg(name="")]
    disk_budget: str | None = None
    """Stop before the images of these instances take more than this, for example 60GB. None = bring all."""
    pulls: Annotated[PullConfig, tyro.conf.arg(name="")] = field(default_factory=PullConfig)

    def __post_init__(self) -> None:
        budget_bytes(self.disk_budget)


def pull(config: PullCommandConfig) -> int:
    """Bring the images; exit code 1 where one could not be brought, or where the budget ended it."""
    from srl_swe.environments.connect import connect_engine
    from srl_swe.environments.image_fetching import FetchedImage, fetch_images

    console = Console()
    instances = config.task_set.load()
    bars: dict[str, TaskID] = {}
    shown = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip

    def say(done: FetchedImage, num_done: int, num_all: int) -> None:
        bar = bars.pop(done.name, None)
        if bar is not None:
            shown.remove_task(bar)
        words = f"failed: {done.error}" if done.error else f"{shown_bytes(done.size_bytes)} in {done.duration_s:.1f} s"
        line = f"[{num_done}/{num_all}] {done.name}: {words}"
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def progress(name: str, done_bytes: int, total_bytes: int) -> None:
        if name not in bars:
            bars[name] = shown.add_task(printable(name.rpartition("/")[2][-60:]), total=None)
        shown.update(bars[name], completed=done_bytes, total=total_bytes or None)

    with connect_engine() as engine, shown:
        found = fetch_images(
            engine,
            instances,
            budget_bytes=budget_bytes(config.disk_budget),
            pulls=config.pulls,
            finished=say,
            progress=progress,
        )
    num_all = found.num_here + len(found.fetched) + len(found.left_out)
    lines = [
        f"{found.num_here} of {num_all} images were here, {found.num_fetched} came, {found.num_failed} failed; "
        f"together they take {shown_bytes(found.used_bytes)}"
    ]
    if found.left_out:
        lines.append(f"{len(found.left_out)} images were not brought: {found.stopped_by}")
    for line in lines:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    return 1 if found.num_failed or found.left_out else 0
