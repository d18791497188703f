"""What the demo found, read back from the files of its stages, and the one table that shows it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from srl_swe.demo.instances import candidate_counts
from srl_swe.demo.recording import given_up_counts
from srl_swe.files import write_atomically

REPORT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepScores:
    """How a model proposes the expert's next action on held-out steps."""

    similarity: float
    """Mean; a malformed answer counts 0."""
    format_rate: float
    reward: float
    """Mean; a malformed answer counts -1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """The figures of the demo."""

    num_candidates: int
    num_proven: int
    num_given_up: int
    """Instances on which the expert gave up."""
    num_resolved_by_expert: int
    num_held_out_steps: int
    copy_last_similarity: float
    steps: Mapping[str, StepScores]
    """By model: base, sft, srl."""
    resolved: Mapping[str, tuple[int, int]]
    """By who made the patches (gold, base, trained): resolved, and all instances asked for."""
    invalid: Mapping[str, int]
    """Infrastructure failures among them."""
    seconds: Mapping[str, float]
    """By stage."""
    output: str


def read_report(folder: Path, seconds: Mapping[str, float]) -> DemoReport:
    """Read the files of a complete demo and write `report.json` beside them."""
    counts = candidate_counts(folder)
    sft, srl = _validations(folder / "sft"), _validations(folder / "srl")
    summaries = {name: _json(folder / "eval" / name / "summary.json") for name in ("gold", "base", "trained")}
    report = DemoReport(
        num_candidates=counts.total(),
        num_proven=sum(count for (_, outcome), count in counts.items() if outcome == "kept"),
        num_given_up=given_up_counts(folder / "expert").total(),
        num_resolved_by_expert=_json(folder / "expert" / "summary.json")["num_resolved"],
        num_held_out_steps=int(sft[0]["validation/examples"]),
        copy_last_similarity=sft[0]["validation/copy_last_similarity"],
        steps={"base": _scores(sft[0]), "sft": _scores(sft[-1]), "srl": _scores(srl[-1])},
        resolved={name: (found["num_resolved"], found["num_instances"]) for name, found in summaries.items()},
        invalid={name: found["num_invalid"] for name, found in summaries.items()},
        seconds=dict(seconds),
        output=str(folder),
    )
    write_atomically(folder / REPORT_FILE, json.dumps(asdict(report), indent=1) + "\n")
    return report


def print_report(report: DemoReport, console: Console) -> None:
    """Print the table, and where everything lies."""
    table = Table(title="srl-swe demo", show_header=False, min_width=60)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("bugs proven / candidates tried", f"{report.num_proven} / {report.num_candidates}")
    table.add_row("resolved by the expert / given up", f"{report.num_resolved_by_expert} / {report.num_given_up}")
    table.add_section()
    table.add_row(f"[bold]{report.num_held_out_steps} held-out steps[/bold]", "[bold]similarity, format rate[/bold]")
    table.add_row("copy the last action", f"{report.copy_last_similarity:.3f}       ")
    for name, label in (("base", "base model"), ("sft", "after SFT warm-up"), ("srl", "after SRL")):
        scores = report.steps[name]
        table.add_row(label, f"{scores.similarity:.3f}, {scores.format_rate:>4.0%}")
    table.add_section()
    table.add_row("[bold]held-out instances[/bold]", "[bold]resolved[/bold]")
    for name, label in (("gold", "gold patches"), ("base", "base model"), ("trained", "trained model")):
        resolved, asked = report.resolved[name]
        invalid = f" ({report.invalid[name]} invalid)" if report.invalid[name] else ""
        table.add_row(label, f"{resolved} of {asked}{invalid}")
    table.add_section()
    for stage, seconds in report.seconds.items():
        table.add_row(f"time: {stage}", f"{seconds:.0f} s")
    table.add_row("time: all stages", f"{sum(report.seconds.values()):.0f} s")
    console.print(table)
    console.print(
        f"{report.output}: instances.jsonl, expert/, steps/, sft/, srl/, eval/, {REPORT_FILE}", highlight=False
    )


def _validations(run: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if "validation/reward" in entry]


def _scores(entry: Mapping[str, Any]) -> StepScores:
    return StepScores(
        similarity=entry["validation/similarity"],
        format_rate=entry["validation/format_rate"],
        reward=entry["validation/reward"],
    )


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
