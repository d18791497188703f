"""What an evaluation found: the official harness's report, our summary, and the table for the terminal.

`report.json` has the keys and the meaning of swebench 5.0.2's `make_run_report`; `summary.json` adds the
resolve rate with its interval, the invalid ones with reasons, time, and what `cheats` found. Grading is left to
`scheduler`.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from srl_swe.environments.patching import REACHES_OUT
from srl_swe.evaluation.cheats import CheatReport
from srl_swe.evaluation.statistics import wilson_interval
from srl_swe.files import write_atomically
from srl_swe.types import Instance, Prediction, Verdict

# `grading` gives these reasons; the official harness writes no result for such patches and counts them as errors.
_OFFICIAL_ERRORS = ("patch does not apply", "timeout", REACHES_OUT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The outcome of an evaluation, every instance asked for counted exactly once."""

    model: str
    num_instances: int
    num_resolved: int
    num_unresolved: int
    """Graded and not resolved, empty patches included."""
    num_empty_patch: int
    num_invalid: int
    num_not_predicted: int
    num_pending: int
    """Predicted and not graded yet: the run was interrupted."""
    resolve_rate: float
    """Resolved / all instances asked for."""
    resolve_rate_low: float
    resolve_rate_high: float
    """Wilson interval of the resolve rate, 95 %."""
    unresolved_reasons: Mapping[str, int]
    invalid: Mapping[str, str]
    """Instance id -> why it could not be judged. Run again to retry them."""
    pending_ids: tuple[str, ...]
    wall_s: float
    """Of this run alone; verdicts of earlier runs cost nothing again."""
    median_instance_s: float | None
    max_instance_s: float | None
    flaky: Mapping[str, str] = field(default_factory=dict)
    """Instance id -> how gradings of the same patch differ, for example "resolved in 2 of 3 gradings"."""
    cheats: CheatReport | None = None
    """None = nobody looked."""

    @property
    def complete(self) -> bool:
        """Whether every prediction has a verdict that is not invalid."""
        return not self.num_pending and not self.num_invalid


def summarize(
    instances: Sequence[Instance],
    predictions: Sequence[Prediction],
    verdicts: Mapping[str, Verdict],
    *,
    invalid_episodes: Mapping[str, str],
    wall_s: float,
    cheats: CheatReport | None = None,
) -> Summary:
    """Count every instance asked for once.

    `verdicts` is by instance id; `invalid_episodes` says why instances have no prediction although the
    agent was asked for one (infrastructure failed).
    """
    predicted = {prediction.instance_id: prediction for prediction in predictions}
    resolved = _with_status(verdicts, "resolved")
    unresolved = _with_status(verdicts, "unresolved")
    invalid = {name: verdict.reason for name, verdict in verdicts.items() if verdict.status == "invalid"}
    invalid |= {name: reason for name, reason in invalid_episodes.items() if name not in predicted}
    pending = tuple(sorted(set(predicted) - set(verdicts)))
    reasons = [verdict.reason or "tests" for verdict in verdicts.values() if verdict.status == "unresolved"]
    durations = [verdict.duration_s for verdict in verdicts.values() if verdict.duration_s > 0]
    low, high = wilson_interval(len(resolved), len(instances))
    return Summary(
        model=", ".join(sorted({prediction.model_name_or_path for prediction in predictions})) or "none",
        num_instances=len(instances),
        num_resolved=len(resolved),
        num_unresolved=len(unresolved),
        num_empty_patch=sum(1 for name in verdicts if not predicted[name].model_patch),
        num_invalid=len(invalid),
        num_not_predicted=len(instances) - len(predicted) - sum(1 for name in invalid if name not in predicted),
        num_pending=len(pending),
        resolve_rate=len(resolved) / len(instances) if instances else 0.0,
        resolve_rate_low=low,
        resolve_rate_high=high,
        unresolved_reasons={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        invalid=dict(sorted(invalid.items())),
        pending_ids=pending,
        wall_s=wall_s,
        median_instance_s=statistics.median(durations) if durations else None,
        max_instance_s=max(durations, default=None),
        cheats=cheats,
    )


def official_report(
    instances: Sequence[Instance], predictions: Sequence[Prediction], verdicts: Mapping[str, Verdict]
) -> dict[str, Any]:
    """Return what swebench 5.0.2 writes for these outcomes, ready for JSON (its schema version 2)."""
    patches = {prediction.instance_id: prediction.model_patch for prediction in predictions}
    asked = [instance.instance_id for instance in instances]
    empty = {name for name in asked if name in patches and not patches[name]}
    graded = {name: verdict for name, verdict in verdicts.items() if name not in empty}
    resolved = _with_status(graded, "resolved")
    unresolved = {name for name in _with_status(graded, "unresolved") if graded[name].reason not in _OFFICIAL_ERRORS}
    invalid = {name: graded[name].reason for name in _with_status(graded, "invalid")}
    errors = {name for name in asked if name in patches} - empty - resolved - unresolved
    ids = {
        "completed": resolved | unresolved,
        "incomplete": {name for name in asked if name not in patches},
        "empty_patch": empty,
        "submitted": set(patches),
        "resolved": resolved,
        "unresolved": unresolved,
        "infra_failure": set(invalid),
        "ambiguous_failure": set[str](),
        "error": errors,
    }
    counted = (name for name in ids if name != "incomplete")
    return {
        "total_instances": len(asked),
        **{f"{name}_instances": len(ids[name]) for name in counted},
        **{f"{name}_ids": sorted(members) for name, members in ids.items()},
        "failure_reasons": dict(sorted(invalid.items())),
        "schema_version": 2,
    }


def write_reports(folder: Path, official: Mapping[str, Any], summary: Summary) -> None:
    """Write `report.json` and `summary.json`, each at once."""
    write_atomically(folder / "report.json", json.dumps(official, indent=4) + "\n")
    record = {"schema_version": 1, "complete": summary.complete, **asdict(summary)}
    write_atomically(folder / "summary.json", json.dumps(record, indent=2) + "\n")


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Lay out one row per evaluated model for the terminal; missing = not predicted or not graded yet."""
    table = Table(title="Resolve rate over all instances asked for", box=SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("model", overflow="fold", min_width=10)
    for heading in ("resolved", "% (95 % Wilson)", "unresolved", "invalid", "missing", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        fractions = (summary.resolve_rate, summary.resolve_rate_low, summary.resolve_rate_high)
        rate, low, high = (100 * fraction for fraction in fractions)
        table.add_row(
            Text(summary.model),
            f"{summary.num_resolved}/{summary.num_instances}",
            f"{rate:.1f} ({low:.1f}-{high:.1f})",
            str(summary.num_unresolved),
            str(summary.num_invalid),
            str(summary.num_not_predicted + summary.num_pending),
            f"{summary.wall_s:.1f}",
        )
    return table


def _with_status(verdicts: Mapping[str, Verdict], status: str) -> set[str]:
    return {name for name, verdict in verdicts.items() if verdict.status == status}
