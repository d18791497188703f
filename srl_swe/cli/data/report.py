"""`srl-swe data report`: what is in a compiled set, on one page."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from srl_swe.curation import findings
from srl_swe.curation.page import render_page
from srl_swe.curation.set_report import ReportOptions, SetReport, make_report
from srl_swe.errors import DataError
from srl_swe.files import write_atomically
from srl_swe.pages.texts import check_installed, visible
from srl_swe.trajectories.store import REPORT


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Write a page on a compiled set: sources, drops, kinds of actions, lengths, shared prefixes, the reward floor.

    The page is one file that needs no network and no scripts. The same set and options give the same page.
    """

    steps: Annotated[Path, tyro.conf.Positional]
    """Folder that `srl-swe data compile` wrote."""
    out: Path | None = None
    """Where the page goes; by default report.html in the set's folder."""
    options: tyro.conf.OmitArgPrefixes[ReportOptions] = field(default_factory=ReportOptions)


def report(config: ReportConfig) -> int:
    """Measure the set, write the page, and print its main figures."""
    check_installed()
    path = config.out or config.steps / REPORT
    if path.is_dir():
        raise DataError(f"{path}: a folder is in the way; name a file for the page with --out")
    made = make_report(config.steps, config.options, console=Console(stderr=True))
    write_atomically(path, render_page(made))
    console = Console()
    for table in (_sources(made), _kinds(made), _lengths(made)):
        console.print(table)
    for sentence in (findings.about_steps(made.survey.step_counts), findings.about_sharing(made.sharing)):
        console.print(f"{sentence}.", markup=False, highlight=False)
    console.print(_replay_line(made), markup=False, highlight=False)
    console.print(f"written to {path}; open it in a browser", markup=False, highlight=False, soft_wrap=True)
    return 0


def _sources(made: SetReport) -> Table:
    survey = made.survey
    table = _table("what is in it", ("source", "trajectories", "step examples", "resolved, where told"))
    for each in survey.sources:
        resolved = findings.percent(each.num_resolved, each.num_resolved + each.num_unresolved)
        table.add_row(Text(visible(each.source)), f"{each.num_trajectories:,}", f"{each.num_examples:,}", resolved)
    for part, count in survey.num_examples.items():
        table.add_row(f"of these: {part}", f"{survey.num_trajectories[part]:,}", f"{count:,}", "")
    return table


def _kinds(made: SetReport) -> Table:
    table = _table(
        "actions, and the floor", ("kind", "step examples", "share", "last action", "common of kind", "scored on")
    )
    floors = {floor.kind: floor for floor in made.floors}
    total = sum(made.survey.num_examples.values())
    counts = {None: total} | {kind: sum(parts.values()) for kind, parts in made.survey.kinds.items()}
    for kind, count in counts.items():
        floor = floors.get(kind)
        scores = (floor.copy_last, floor.common_of_kind) if floor else (None, None)
        shown = ("" if value is None else f"{value:.2f}" for value in scores)
        scored = f"{floor.num_steps:,}" if floor else "0"
        table.add_row(kind or "all", f"{count:,}", findings.percent(count, total), *shown, scored)
    return table


def _lengths(made: SetReport) -> Table:
    table = _table(f"lengths in {made.measure.unit}", ("text", "5 %", "median", "95 %", "longest"))
    for each in made.lengths:
        table.add_row(each.name, *(f"{each.quantile(share):,}" for share in (0.05, 0.5, 0.95, 1.0)))
    return table


def _replay_line(made: SetReport) -> str:
    if made.replay is None:
        return f"Not replayed; run srl-swe data replay {made.name} --instances FILE."
    return f"{findings.about_replay(made.replay)}."


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    return table
