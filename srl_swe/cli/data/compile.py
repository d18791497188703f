"""`srl-swe data`: trajectories to step examples, and a look at them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from srl_swe import __version__
from srl_swe.errors import ConfigError, DataError
from srl_swe.trajectories.formats import NOTES, DropCounter, read_trajectories
from srl_swe.trajectories.splits import split_by_instance
from srl_swe.trajectories.steps import StepFilter, compile_trajectories
from srl_swe.trajectories.store import StoreCounts, write_steps
from srl_swe.types import CompiledTrajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileConfig:
    """Compile published trajectories to step examples of command-level actions.

    Formats are told by content: SWE-Gym (OpenHands), SWE-smith (xml), mini-swe-agent (1 and 2).
    A named file must be understood; in a folder, what is no trajectory is passed over. Every dropped row
    or step is counted by reason.
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files and folders (read recursively)."""
    out: Path
    """Folder of the compiled set; an older set there is replaced at the end, in one instant."""
    validation_share: float = 0.1
    """Share of the instances held out for validation; no instance is on both sides."""
    validation_instances: int | None = None
    """Number of instances held out, instead of a share."""
    validation_ids: Path | None = None
    """File with one instance id a line: exactly these are held out, instead of a share."""
    seed: int = 0
    """Another seed, another split."""
    step_filter: Annotated[StepFilter, tyro.conf.arg(name="")] = field(default_factory=StepFilter)


def compile_set(config: CompileConfig) -> int:
    """Compile, write the set, and print what was kept and what was dropped."""
    if not config.paths:
        raise ConfigError("name at least one file or folder of trajectories")
    drops = DropCounter()
    trajectories: Counter[str] = Counter()
    examples: Counter[str] = Counter()
    held_out = _held_out_ids(config.validation_ids) if config.validation_ids else None
    console = Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())

    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("compiling", total=None)

        def counted() -> Iterator[CompiledTrajectory]:
            found = read_trajectories(config.paths, drops=drops)
            for compiled in compile_trajectories(found, step_filter=config.step_filter, drops=drops):
                source = compiled.trajectory.source
                examples[source] += len(compiled.targets)
                trajectories[source] += 1
                progress.update(bar, description=f"compiling: {trajectories.total()} trajectories")
                yield compiled

        def choose(instance_ids: Sequence[str]) -> frozenset[str]:
            if held_out is not None:
                return held_out & frozenset(instance_ids)
            if config.validation_instances is not None:
                return split_by_instance(instance_ids, num_validation=config.validation_instances, seed=config.seed)
            return split_by_instance(instance_ids, validation_share=config.validation_share, seed=config.seed)

        counts = write_steps(
            counted(),
            config.out,
            header=lambda: {
                "srl_swe_version": __version__,
                "paths": [str(path) for path in config.paths],
                "filter": _plain(asdict(config.step_filter)),
                "seed": config.seed,
                "trajectories": dict(sorted(trajectories.items())),
                "examples": dict(sorted(examples.items())),
                "drops": drops.to_dict(),
            },
            choose_validation=choose,
        )
    _print_counts(console, trajectories, examples, drops, counts)
    console.print(f"written to {config.out}; next: srl-swe data show {config.out}", markup=False, highlight=False)
    return 0


def _held_out_ids(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not lines:
        raise DataError(f"{path}: expected one instance id a line, found none")
    return frozenset(lines)


def _plain(options: dict[str, object]) -> dict[str, object]:
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in options.items()}


def _print_counts(
    console: Console, trajectories: Counter[str], examples: Counter[str], drops: DropCounter, counts: StoreCounts
) -> None:
    table = Table(title="compiled")
    for heading in ("source", "trajectories", "step examples"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for source in sorted(trajectories):
        table.add_row(source, str(trajectories[source]), str(examples[source]))
    for part in counts.num_examples:
        table.add_row(f"of these: {part}", str(counts.num_trajectories[part]), str(counts.num_examples[part]))
    console.print(table)
    dropped = Table(title="dropped or noted, with reasons")
    for heading in ("source", "reason", "count", "first place"):
        dropped.add_column(heading, justify="right" if heading == "count" else "left", overflow="fold")
    for (source, reason), count in sorted(drops.counts.items()):
        note = " (note)" if reason in NOTES else ""
        dropped.add_row(source, reason.value + note, str(count), next(iter(drops.places(source, reason)), ""))
    if drops.counts:
        console.print(dropped)
