"""What a replay and a profile of a set say, summed up by kind of action, for a report.

Each summary is made while the set passes by, because outcomes name steps, and only the set knows their actions.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from srl_swe.curation.action_kinds import ActionKind, action_kind
from srl_swe.curation.pivots import PivotRule, Spread, spread_of
from srl_swe.curation.profile_file import Profile, read_profile
from srl_swe.curation.replay_outcomes import StepStatus, TrajectoryOutcome, read_replay
from srl_swe.errors import DataError
from srl_swe.trajectories.store import PROFILE, read_manifest
from srl_swe.types import CompiledTrajectory

STATUSES: tuple[StepStatus, ...] = ("reproduced", "differs", "failed")
_MAX_REASONS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplaySummary:
    """What a replay found."""

    num_trajectories: int
    """Replayed ones."""
    num_broken_off: int
    """Of these, infrastructure failed before the end."""
    num_reproduced: int
    """Of these, every command gave what the file says."""
    num_patches: int
    """Replays that ended with a patch."""
    num_equal_patches: int
    verdicts: Mapping[str, int]
    """Of the hidden tests on the replayed patches."""
    steps: Mapping[StepStatus, int]
    by_kind: Mapping[ActionKind, Mapping[StepStatus, int]]
    """The most frequent kind first."""
    reasons: tuple[tuple[str, int], ...]
    """Why steps were not reproduced, the most frequent first, at most a few."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KindProfile:
    """The rewards that a model got on the steps of one kind."""

    num_steps: int
    mean_reward: float
    """Malformed completions count -1."""
    mean_similarity: float | None
    """Of the well-formed completions alone; None = there was none."""
    num_with_signal: int
    """Steps whose rewards vary, so that SRL learns from them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileOutcome:
    """What a profile found."""

    model: str
    part: str
    samples: int
    spreads: Mapping[Spread, int]
    """Steps by where the spread of their rewards comes from."""
    overall: KindProfile | None
    """None = no step was sampled."""
    by_kind: Mapping[ActionKind, KindProfile]
    """The most frequent kind first."""


class ReplayTally:
    """Sums up the replay of a set."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError where `folder` holds no set."""
        self._outcomes = read_replay(folder)
        self._by_kind: Counter[tuple[ActionKind, StepStatus]] = Counter()

    def add(self, compiled: CompiledTrajectory) -> None:
        """Take in what the replay says of this trajectory, if anything."""
        steps = compiled.trajectory.steps
        outcome = self._outcomes.get(compiled.trajectory.trajectory_id)
        for step in outcome.steps if outcome else ():
            if step.index < len(steps):
                self._by_kind[action_kind(steps[step.index].action), step.status] += 1

    def result(self) -> ReplaySummary | None:
        """Return the summary, None where nothing was replayed."""
        outcomes = list(self._outcomes.values())
        if not outcomes:
            return None
        patches = [outcome.patch for outcome in outcomes if outcome.patch is not None and not outcome.patch.problem]
        reasons = Counter(step.reason for each in outcomes for step in each.steps if step.reason)
        totals = Counter[ActionKind]()
        for (kind, _), count in self._by_kind.items():
            totals[kind] += count
        return ReplaySummary(
            num_trajectories=len(outcomes),
            num_broken_off=sum(bool(outcome.failure) for outcome in outcomes),
            num_reproduced=sum(_is_reproduced(outcome) for outcome in outcomes),
            num_patches=len(patches),
            num_equal_patches=sum(patch.equal for patch in patches),
            verdicts=Counter(outcome.verdict for outcome in outcomes if outcome.verdict is not None),
            steps={status: sum(outcome.num_steps(status) for outcome in outcomes) for status in STATUSES},
            by_kind={
                kind: {status: self._by_kind[kind, status] for status in STATUSES} for kind, _ in totals.most_common()
            },
            reasons=tuple(reasons.most_common(_MAX_REASONS)),
        )


class ProfileTally:
    """Sums up the profile of a set."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError where the profile is damaged, or that of another set."""
        path = folder / PROFILE
        self._profile: Profile | None = read_profile(path) if path.is_file() else None
        self._steps = {step.example_id: step for step in self._profile.steps} if self._profile else {}
        self._ids: dict[ActionKind, list[str]] = {}
        if self._profile and self._profile.header.content_hash != read_manifest(folder).get("content_hash"):
            raise DataError(f"{path}: the profile of another set; delete it, or profile this set again")

    def add(self, compiled: CompiledTrajectory) -> None:
        """Take in what the profile says of this trajectory's steps, if anything."""
        for index in compiled.targets if self._steps else ():
            example_id = f"{compiled.trajectory.trajectory_id}#{index}"
            if example_id in self._steps and not self._steps[example_id].skipped:
                kind = action_kind(compiled.trajectory.steps[index].action)
                self._ids.setdefault(kind, []).append(example_id)

    def result(self) -> ProfileOutcome | None:
        """Return the outcome, None where there is no profile."""
        if self._profile is None:
            return None
        header = self._profile.header
        rule = PivotRule()
        ordered = sorted(self._ids, key=lambda kind: (-len(self._ids[kind]), kind))
        every = [example_id for kind in ordered for example_id in self._ids[kind]]
        return ProfileOutcome(
            model=header.model,
            part=header.part,
            samples=header.samples,
            spreads=Counter(spread_of(step, rule.min_profile_std) for step in self._profile.steps),
            overall=self._kind_profile(every, rule) if every else None,
            by_kind={kind: self._kind_profile(self._ids[kind], rule) for kind in ordered},
        )

    def _kind_profile(self, example_ids: list[str], rule: PivotRule) -> KindProfile:
        steps = [self._steps[example_id] for example_id in example_ids]
        rewards = [reward for step in steps for reward in step.rewards]
        well_formed = [reward for reward in rewards if reward >= 0]
        return KindProfile(
            num_steps=len(steps),
            mean_reward=sum(rewards) / len(rewards),
            mean_similarity=sum(well_formed) / len(well_formed) if well_formed else None,
            num_with_signal=sum(step.std > rule.min_profile_std for step in steps),
        )


def _is_reproduced(outcome: TrajectoryOutcome) -> bool:
    return not outcome.failure and all(step.status == "reproduced" for step in outcome.steps)
