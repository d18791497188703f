"""`srl-swe data`: trajectories to step examples, and a look at them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from srl_swe import __version__
from srl_swe.errors import ConfigError, DataError, MalformedCompletionError
from srl_swe.prompts import PromptLimits, render, write
from srl_swe.rewards import copy_last
from srl_swe.trajectories.formats import NOTES, DropCounter, read_trajectories
from srl_swe.trajectories.steps import StepFilter, compile_steps, split_by_instance
from srl_swe.trajectories.store import StoreCounts, read_steps, write_steps
from srl_swe.types import StepExample, Trajectory


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowConfig:
    """Show one step example: its prompt, the expert's answer, and what copying the last action would score."""

    steps: Annotated[Path, tyro.conf.Positional]
    """Folder that `srl-swe data compile` wrote."""
    index: int = 0
    """Which example, counted from 0 in the order of the file."""
    part: Literal["train", "validation"] = "train"
    limits: Annotated[PromptLimits, tyro.conf.arg(name="")] = field(default_factory=PromptLimits)


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command."""
    config = tyro.extras.subcommand_cli_from_dict(
        {"compile": CompileConfig, "show": ShowConfig}, prog="srl-swe data", args=list(arguments)
    )
    return compile_set(config) if isinstance(config, CompileConfig) else show(config)


def compile_set(config: CompileConfig) -> int:
    """Compile, write the set, and print what was kept and what was dropped."""
    if not config.paths:
        raise ConfigError("name at least one file or folder of trajectories")
    drops = DropCounter()
    trajectories: Counter[str] = Counter()
    examples: Counter[str] = Counter()
    source_of: dict[str, str] = {}
    held_out = _held_out_ids(config.validation_ids) if config.validation_ids else None
    console = Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())

    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("compiling", total=None)

        def counted_trajectories() -> Iterator[Trajectory]:
            for trajectory in read_trajectories(config.paths, drops=drops):
                source_of[trajectory.trajectory_id] = trajectory.source
                yield trajectory

        def counted_examples() -> Iterator[StepExample]:
            last = ""
            for example in compile_steps(counted_trajectories(), step_filter=config.step_filter, drops=drops):
                source = source_of[example.trajectory_id]
                examples[source] += 1
                if example.trajectory_id != last:
                    trajectories[source] += 1
                    last = example.trajectory_id
                    progress.update(bar, description=f"compiling: {trajectories.total()} trajectories")
                yield example

        def choose(instance_ids: Sequence[str]) -> frozenset[str]:
            if held_out is not None:
                return held_out & frozenset(instance_ids)
            if config.validation_instances is not None:
                return split_by_instance(instance_ids, num_validation=config.validation_instances, seed=config.seed)
            return split_by_instance(instance_ids, validation_share=config.validation_share, seed=config.seed)

        counts = write_steps(
            counted_examples(),
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


def show(config: ShowConfig) -> int:
    """Print one example."""
    if config.index < 0:
        raise ConfigError(f"index must be at least 0, not {config.index}")
    example = None
    position = -1
    for position, candidate in enumerate(read_steps(config.steps, config.part)):
        if position == config.index:
            example = candidate
            break
    if example is None:
        raise DataError(f"{config.steps}: part {config.part} has {position + 1} examples; there is no {config.index}")
    console = Console()
    for message in render(example.problem_statement, example.history, config.limits):
        console.print(Panel(Text(message["content"]), title=f"prompt: {message['role']}", title_align="left"))
    try:
        target = write(example.expert_thought, example.expert_action)
        title = "expert's completion"
    except MalformedCompletionError as error:
        target = example.expert_action
        title = f"expert's action ({error} It serves SRL, not SFT.)"
    console.print(Panel(Text(target), title=Text(title), title_align="left", style="green"))
    baseline = copy_last(example)
    shown = "no earlier action" if baseline is None else f"{baseline:.3f}"
    console.print(
        f"{example.example_id}: step {example.step_index} of {example.instance_id}; copying the last action: {shown}",
        markup=False, highlight=False,
    )  # fmt: skip
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
