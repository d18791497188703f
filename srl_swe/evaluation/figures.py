"""The figures of an evaluation's report: rates by group, where instances failed, what episodes took.

Everything comes from the output folder. How it looks is left to `report_pages` and `report_plots`.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srl_swe.environments.patching import REACHES_OUT
from srl_swe.environments.recording import SUFFIX
from srl_swe.evaluation.episodes import TRAJECTORIES_FOLDER
from srl_swe.evaluation.record import EvaluationRecord, InstanceOutcome
from srl_swe.evaluation.statistics import wilson_interval
from srl_swe.files import file_name

STAGES = {
    "resolved": "all tests that had to start passing do, and those that passed still do",
    "not predicted": "there is no prediction for it",
    "pending": "predicted and not graded yet",
    "no patch": "the prediction is empty",
    "does not apply": "the patch does not apply to the base commit",
    "tests fail": "the patch applies, and tests fail",
    "tests do not end": "the tests ran into the time limit, ran out of memory, or ended the script",
    "not believed": "tests were reported that did not run so, or the patch reaches out of the work tree",
    "another reason": "not resolved, for the reason that is told beside it",
    "invalid": "the infrastructure failed, so nothing is known of the patch",
}
"""How far an instance came -> what that means."""

_STAGE_OF_REASON = {
    "empty patch": "no patch",
    "patch does not apply": "does not apply",
    "tests": "tests fail",
    "": "tests fail",
    "forged": "not believed",
    REACHES_OUT: "not believed",
    "timeout": "tests do not end",
    "out of memory": "tests do not end",
}
_ENDED_SCRIPT = "tests ended the evaluation script"
"""`grading` adds the exit code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRate:
    """The resolve rate of a group of instances, with its 95 % Wilson interval."""

    name: str
    num_resolved: int
    num_instances: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Resolved / asked for."""
        return self.num_resolved / self.num_instances if self.num_instances else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeRecord:
    """What an episode's file says."""

    exit_status: str
    num_steps: int
    num_malformed: int
    prompt_tokens: int
    completion_tokens: int
    duration_s: float
    thought_chars: tuple[int, ...]
    """One per step that has a thought."""
    messages: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantiles:
    """How something is distributed over episodes or steps."""

    name: str
    count: int
    median: float
    mean: float
    high: float
    """95 % quantile."""
    largest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What the report shows."""

    all: GroupRate
    repos: tuple[GroupRate, ...]
    difficulties: tuple[GroupRate, ...]
    """Empty where no row says how difficult it is."""
    stages: dict[str, int]
    reasons: dict[str, int]
    """Why instances are not resolved in detail, invalid ones included."""
    endings: dict[str, int]
    """How episodes ended, in the agent's words; empty where the patches came from elsewhere."""
    spread: tuple[Quantiles, ...]
    thought_chars: tuple[int, ...]


def stage_of(instance: InstanceOutcome) -> str:
    """Return how far an instance came: a key of STAGES."""
    if instance.outcome != "unresolved":
        return instance.outcome
    if instance.reason.startswith(_ENDED_SCRIPT):
        return "tests do not end"
    return _STAGE_OF_REASON.get(instance.reason, "another reason")


def make_figures(record: EvaluationRecord, episodes: dict[str, EpisodeRecord]) -> Figures:
    """Count; `episodes` by instance id."""
    instances = record.instances
    stages = Counter(stage_of(instance) for instance in instances)
    graded = [instance.duration_s for instance in instances if instance.duration_s > 0]
    played = list(episodes.values())
    spread = (
        ("seconds to grade", graded),
        ("seconds of an episode", [episode.duration_s for episode in played]),
        ("steps of an episode", [episode.num_steps for episode in played]),
        ("prompt tokens of an episode", [episode.prompt_tokens for episode in played]),
        ("completion tokens of an episode", [episode.completion_tokens for episode in played]),
        ("malformed answers of an episode", [episode.num_malformed for episode in played]),
        ("characters of a thought", [chars for episode in played for chars in episode.thought_chars]),
    )
    return Figures(
        all=_rate("all", instances),
        repos=_groups(instances, [instance.repo for instance in instances]),
        difficulties=_groups(
            [instance for instance in instances if instance.difficulty],
            [instance.difficulty for instance in instances if instance.difficulty],
        ),
        stages={stage: stages[stage] for stage in STAGES if stages[stage]},
        reasons=dict(Counter(_short(instance) for instance in instances if instance.reason).most_common()),
        endings=dict(Counter(episode.exit_status for episode in played).most_common()),
        # Files of other scaffolds do not tell all of it.
        spread=tuple(_quantiles(name, values) for name, values in spread if any(values)),
        thought_chars=tuple(chars for episode in played for chars in episode.thought_chars),
    )


def read_episode(folder: Path, instance_id: str) -> EpisodeRecord | None:
    """Read an instance's trajectory file; None where there is none, or it is no such file."""
    path = folder / TRAJECTORIES_FOLDER / f"{file_name(instance_id)}{SUFFIX}"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        info, messages = record["info"], [dict(message) for message in record["messages"]]
        ours, stats = info.get("srl_swe", {}), info.get("model_stats", {})
        steps = [message for message in messages if message.get("extra", {}).get("actions")]
        return EpisodeRecord(
            exit_status=str(ours.get("exit_status", info.get("exit_status", "not told"))),
            num_steps=len(steps),
            num_malformed=int(ours.get("num_malformed", 0)),
            prompt_tokens=int(stats.get("prompt_tokens", 0)),
            completion_tokens=int(stats.get("completion_tokens", 0)),
            duration_s=float(ours.get("duration_s", 0.0)),
            thought_chars=tuple(length for step in steps if (length := len(str(step.get("content", "")).strip()))),
            messages=tuple(messages),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _groups(instances: Sequence[InstanceOutcome], names: Sequence[str]) -> tuple[GroupRate, ...]:
    members: dict[str, list[InstanceOutcome]] = {}
    for name, instance in zip(names, instances, strict=True):
        members.setdefault(name, []).append(instance)
    rates = [_rate(name, group) for name, group in members.items()]
    return tuple(sorted(rates, key=lambda rate: (-rate.num_instances, rate.name)))


def _rate(name: str, instances: Sequence[InstanceOutcome]) -> GroupRate:
    num_resolved = sum(instance.outcome == "resolved" for instance in instances)
    low, high = wilson_interval(num_resolved, len(instances))
    return GroupRate(name=name, num_resolved=num_resolved, num_instances=len(instances), low=low, high=high)


def _short(instance: InstanceOutcome) -> str:
    """Return the reason's first line without what differs from instance to instance at its end."""
    lines = instance.reason.strip().splitlines() or [""]
    return f"{instance.outcome}: {lines[0][:120]}"


def _quantiles(name: str, values: Iterable[float]) -> Quantiles:
    ordered = sorted(values)
    return Quantiles(
        name=name,
        count=len(ordered),
        median=statistics.median(ordered),
        mean=statistics.fmean(ordered),
        high=ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        largest=ordered[-1],
    )
