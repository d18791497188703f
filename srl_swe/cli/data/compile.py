"""`srl-swe data compile`: trajectories to step examples."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from srl_swe import __version__
from srl_swe.errors import ConfigError, DataError
from srl_swe.hub import hub_tables, is_hub_name
from srl_swe.trajectories.compilation import Compiled, Tables, compile_files
from srl_swe.trajectories.formats import NOTES
from srl_swe.trajectories.inputs import ENDINGS, list_files
from srl_swe.trajectories.splits import SplitUnit, repo_of, split_by_instance
from srl_swe.trajectories.steps import StepFilter
from srl_swe.trajectories.store import StoreCounts, write_records

_WORTH_WORKERS_BYTES = 50_000_000
"""Below this, starting processes takes longer than it saves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileConfig:
    """Compile published trajectories to step examples of command-level actions.

    Formats are told by content: SWE-Gym, SWE-smith (tool, xml, ticks), SWE-agent (0.x, 1.x), mini-swe-agent (1, 2),
    OpenHands (output.jsonl), nebius (SWE-agent, OpenHands), and what srl-swe recorded itself; plain or packed by gzip
    or zstd, JSON, JSON lines or parquet. A named file must be understood; in a folder, what is no trajectory is passed
    over. Every dropped row or step is counted by reason. Interrupted, the same command goes on where it stopped.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Files, folders (read recursively), and data sets of the hub as owner/name or owner/name:split."""
    out: Path
    """Folder of the compiled set; an older set there is replaced at the end, in one instant."""
    validation_share: float = 0.1
    """Share of the instances held out for validation; no instance is on both sides."""
    validation_instances: int | None = None
    """Number of instances held out, instead of a share (of repositories with --split-by repo)."""
    validation_ids: Path | None = None
    """File with one instance id a line: exactly these are held out, instead of a share."""
    split_by: SplitUnit = "instance"
    """repo: whole repositories are held out, where the claim is generalisation."""
    seed: int = 0
    """Another seed, another split."""
    evaluation: tuple[str, ...] = ()
    """Evaluation splits (verified, multilingual…) or files of instances: runs on their instances are dropped."""
    evaluation_repos: bool = False
    """Drop trajectories on any instance of the repositories of --evaluation, too."""
    paper: bool = False
    """The paper's rules (arXiv 2510.25992): only resolved runs, every step but the last is a target, repeats too, and
    two pairs of context."""
    workers: int | None = None
    """Processes that parse and compile; by default one a processor where there is enough to do."""
    step_filter: Annotated[StepFilter, tyro.conf.arg(name="")] = field(default_factory=StepFilter)

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; it must be at least 1")
        if not self.paths:
            raise ConfigError("name at least one file, folder or hub data set of trajectories")


def compile_set(config: CompileConfig) -> int:
    """Compile, write the set, and print what was kept and what was dropped."""
    inputs = [_input(text) for text in config.paths]
    step_filter = _step_filter(config)
    held_out = _held_out_ids(config.validation_ids) if config.validation_ids else None
    num_bytes = sum(file.path.stat().st_size for file in list_files([i for i in inputs if isinstance(i, Path)]))
    has_tables = any(isinstance(item, Tables) for item in inputs)
    num_workers = config.workers or ((os.cpu_count() or 1) if has_tables or num_bytes >= _WORTH_WORKERS_BYTES else 1)
    work = config.out.parent / f".{config.out.name}.work"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("compiling", total=None if has_tables else num_bytes)

        def show(compiled: Compiled) -> None:
            shown = f"compiling: {compiled.trajectories.total()} trajectories"
            progress.update(bar, completed=compiled.position_bytes, description=shown)

        with compile_files(
            inputs, work, step_filter=step_filter, num_workers=num_workers, on_progress=show
        ) as compiled:
            progress.update(bar, description="writing the set")
            if not compiled.index:
                _print_counts(Console(stderr=True), compiled, None)
            counts = write_records(
                compiled.records,
                compiled.index,
                config.out,
                header=_header(config, step_filter, compiled),
                choose_validation=_chooser(config, held_out),
            )
    console = Console()
    _print_counts(console, compiled, counts)
    console.print(
        f"written to {config.out}, with DATASHEET.md; next: srl-swe data report {config.out}",
        markup=False, highlight=False,
    )  # fmt: skip
    return 0


def _input(text: str) -> Path | Tables:
    path = Path(text).expanduser()
    is_file_name = text.endswith(ENDINGS) or text.startswith((".", "/", "~"))
    return hub_tables(text) if not path.exists() and is_hub_name(text) and not is_file_name else path


def _step_filter(config: CompileConfig) -> StepFilter:
    step_filter = config.step_filter
    if config.paper:
        step_filter = replace(step_filter, resolved_only=True, last_step_is_target=False, drop_repeats=False)
    if config.evaluation:
        # Only here: reading instances loads more than compiling needs.
        from srl_swe.evaluation.splits import load_split

        ids = {instance.instance_id for name in config.evaluation for instance in load_split(name)}
        repos = {repo_of(instance_id) for instance_id in ids} if config.evaluation_repos else set()
        step_filter = replace(
            step_filter,
            exclude_instances=step_filter.exclude_instances | ids,
            exclude_repos=step_filter.exclude_repos | repos,
        )
    elif config.evaluation_repos:
        raise ConfigError("--evaluation-repos says what to drop of --evaluation, which is missing")
    return step_filter


def _chooser(config: CompileConfig, held_out: frozenset[str] | None) -> Callable[[Sequence[str]], frozenset[str]]:
    def choose(instance_ids: Sequence[str]) -> frozenset[str]:
        if held_out is not None:
            return held_out & frozenset(instance_ids)
        return split_by_instance(
            instance_ids,
            validation_share=config.validation_share if config.validation_instances is None else None,
            num_validation=config.validation_instances,
            seed=config.seed,
            unit=config.split_by,
        )

    return choose


def _header(config: CompileConfig, step_filter: StepFilter, compiled: Compiled) -> dict[str, object]:
    options = asdict(step_filter)
    # Ids of an evaluation can be thousands: the manifest says where they came from.
    for name in ("exclude_instances", "exclude_repos"):
        options[name] = sorted(getattr(config.step_filter, name))
    options["exit_statuses"] = sorted(step_filter.exit_statuses)
    return {
        "srl_swe_version": __version__,
        "paths": list(config.paths),
        "filter": options
        | {"evaluation": list(config.evaluation), "evaluation_repos": config.evaluation_repos, "paper": config.paper},
        "split_by": config.split_by,
        "seed": config.seed,
        "trajectories": dict(sorted(compiled.trajectories.items())),
        "examples": dict(sorted(compiled.examples.items())),
        "drops": compiled.drops.to_dict(),
        **({"history": 2} if config.paper else {}),
    }


def _held_out_ids(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not lines:
        raise DataError(f"{path}: expected one instance id a line, found none")
    return frozenset(lines)


def _print_counts(console: Console, compiled: Compiled, counts: StoreCounts | None) -> None:
    table = Table(title="compiled")
    for heading in ("source", "trajectories", "step examples"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for source in sorted(compiled.trajectories):
        table.add_row(source, str(compiled.trajectories[source]), str(compiled.examples[source]))
    for part in counts.num_examples if counts else ():
        assert counts is not None
        table.add_row(f"of these: {part}", str(counts.num_trajectories[part]), str(counts.num_examples[part]))
    console.print(table)
    dropped = Table(title="dropped or noted, with reasons")
    for heading in ("source", "reason", "count", "first place"):
        dropped.add_column(heading, justify="right" if heading == "count" else "left", overflow="fold")
    for (source, reason), count in sorted(compiled.drops.counts.items()):
        note = " (note)" if reason in NOTES else ""
        dropped.add_row(source, reason.value + note, str(count), next(iter(compiled.drops.places(source, reason)), ""))
    if compiled.drops.counts:
        console.print(dropped)
