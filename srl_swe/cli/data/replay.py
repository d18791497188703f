"""`srl-swe data replay`: does the environment give what the expert read?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from srl_swe.curation.replay import ReplayConfig, ReplayResult, Watch, replay_set
from srl_swe.curation.replay_outcomes import TrajectoryOutcome
from srl_swe.errors import ConfigError
from srl_swe.trajectories.store import REPLAY


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayCommandConfig:
    """Run the expert's commands in the environment and compare every observation, and the patch, with the recorded.

    Each step comes out reproduced, differs (with the difference) or failed (time limit, dead shell, infrastructure).
    Times, addresses, temporary names and the like do not count. Outcomes are written into replay.jsonl in the set's
    folder as they come; the same command goes on where it stopped.
    """

    steps: Annotated[Path, tyro.conf.Positional]
    """Folder that `srl-swe data compile` wrote."""
    instances: Path
    """File of the instances that the trajectories are on, of any kind that srl-swe eval --instances reads."""
    limit: int | None = None
    """Only the first so many trajectories."""
    max_shown: int = 20
    """Differences that are listed at the end; replay.jsonl has all."""
    replay: Annotated[ReplayConfig, tyro.conf.arg(name="")] = field(default_factory=ReplayConfig)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, not {self.limit}")
        if self.max_shown < 0:
            raise ConfigError(f"max_shown must be at least 0, not {self.max_shown}")


def replay(config: ReplayCommandConfig) -> int:
    """Replay, and print what was found; exit code 0 when every trajectory came to its end, else 1."""
    from srl_swe.environments.connect import connect_engine
    from srl_swe.environments.instances import load_instances

    instances = load_instances(config.instances)
    console = Console()
    with connect_engine() as engine, _progress(Console(stderr=True)) as watch:
        result = replay_set(
            config.steps, instances, config.replay, engine=engine, max_trajectories=config.limit, watch=watch
        )
    console.print(_table(result.outcomes))
    _list_differences(console, result.outcomes, config.max_shown)
    _list_missing(console, result)
    console.print(f"written to {config.steps / REPLAY}", markup=False, highlight=False)
    return 0 if all(outcome.is_final for outcome in result.outcomes) else 1


@contextmanager
def _progress(console: Console) -> Iterator[Watch]:
    """Show a bar on a terminal, and a line for each trajectory that is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("replaying", total=None)

        def say(text: str) -> None:
            # Ids and reasons come from outside: no markup, no control characters.
            shown = "".join(character if character.isprintable() else " " for character in text)
            progress.console.print(Text(shown), soft_wrap=True, highlight=False)

        def finish(outcome: TrajectoryOutcome) -> None:
            progress.advance(bar)
            say(f"{outcome.trajectory_id}: {_in_words(outcome)}, {outcome.duration_s:.1f} s")

        yield Watch(
            begin=lambda num_total, num_earlier: progress.update(bar, total=num_total, completed=num_earlier),
            stage=lambda trajectory_id, stage: progress.update(bar, description=f"{trajectory_id[-40:]}: {stage}"),
            finish=finish,
            say=say,
        )


def _in_words(outcome: TrajectoryOutcome) -> str:
    if outcome.patch is None:
        return f"failed: {outcome.failure}"
    words = [f"{outcome.num_steps('reproduced')} of {len(outcome.steps)} steps reproduced"]
    words += [f"{count} {status}" for status in ("differs", "failed") if (count := outcome.num_steps(status))]
    words.append("patch equal" if outcome.patch.equal else "patch differs")
    return ", ".join(words + ([outcome.verdict] if outcome.verdict else []))


def _table(outcomes: Sequence[TrajectoryOutcome]) -> Table:
    table = Table(title="replayed")
    headings = ("source", "trajectories", "not replayed", "steps", "reproduced", "differs", "failed", "patches equal",
                "resolved again")  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for source in sorted({outcome.source for outcome in outcomes}):
        own = [outcome for outcome in outcomes if outcome.source == source]
        replayed = [outcome for outcome in own if outcome.patch is not None]
        num_steps = sum(len(outcome.steps) for outcome in own)
        reproduced, differs, failed = (
            sum(outcome.num_steps(status) for outcome in own) for status in ("reproduced", "differs", "failed")
        )
        share = f"{reproduced} ({reproduced / num_steps:.1%})" if num_steps else "0"
        equal = sum(outcome.patch.equal for outcome in replayed if outcome.patch)
        graded = [outcome.verdict for outcome in replayed if outcome.verdict is not None]
        resolved = f"{graded.count('resolved')} of {len(graded)}" if graded else "not graded"
        counts = (len(own), len(own) - len(replayed), num_steps, share, differs, failed)
        table.add_row(source, *map(str, counts), f"{equal} of {len(replayed)}", resolved)
    return table


def _list_differences(console: Console, outcomes: Sequence[TrajectoryOutcome], max_shown: int) -> None:
    found: list[tuple[str, str]] = []
    for outcome in outcomes:
        if outcome.depends_on_speed:
            found.append((f"{outcome.trajectory_id}: a time limit ended a command; what follows depends on speed", ""))
        if outcome.failure:
            found.append((f"{outcome.trajectory_id}: failed: {outcome.failure}", ""))
        for step in outcome.steps:
            if step.status != "reproduced":
                where = f"{outcome.trajectory_id}, step {step.index}"
                found.append((f"{where}: {step.status}: {step.reason}", step.difference))
        if outcome.patch is not None and not outcome.patch.equal:
            what = f"the patch differs{': ' if outcome.patch.problem else ''}{outcome.patch.problem}"
            found.append((f"{outcome.trajectory_id}: {what}", outcome.patch.difference))
        if outcome.verdict not in (None, "resolved"):
            found.append((f"{outcome.trajectory_id}: {outcome.verdict}: {outcome.verdict_reason}", ""))
    for what, difference in found[:max_shown]:
        console.print(Text(what, style="bold"), soft_wrap=True)
        if difference:
            console.print(Text("\n".join(f"    {line}" for line in difference.split("\n"))), soft_wrap=True)
    if len(found) > max_shown:
        console.print(f"{len(found) - max_shown} more differences are in {REPLAY}", markup=False, highlight=False)


def _list_missing(console: Console, result: ReplayResult) -> None:
    if not result.missing:
        return
    some = ", ".join(f"{instance_id} ({count})" for instance_id, count in sorted(result.missing.items())[:10])
    more = f" and {len(result.missing) - 10} more" if len(result.missing) > 10 else ""
    console.print(
        f"not in the file of instances: {len(result.missing)} instances of {sum(result.missing.values())} "
        f"trajectories: {some}{more}",
        markup=False,
        highlight=False,
    )
