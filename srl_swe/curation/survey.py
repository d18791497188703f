"""One pass over a compiled set: exact counts, and seeded samples for all that costs more than counting.

Memory is bounded by the sizes of the samples, not by the set. Leaves out what is computed from the samples
(`lengths`, `shared_prefixes`, `reward_floor`).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from srl_swe.curation.action_kinds import ActionKind, action_kind
from srl_swe.curation.streaming import BoundedCounter, Reservoir
from srl_swe.prompts import PromptLimits, render
from srl_swe.trajectories.splits import repo_of
from srl_swe.trajectories.store import PARTS, Part, read_compiled
from srl_swe.types import CompiledTrajectory, HistoryPair, Message

MAX_DISTINCT_ACTIONS = 20_000
"""Actions counted exactly, per kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceCounts:
    """What a set holds of one source."""

    source: str
    num_trajectories: int
    num_examples: int
    num_resolved: int
    num_unresolved: int

    @property
    def num_unknown(self) -> int:
        """Return how many trajectories do not say whether they resolved their instance."""
        return self.num_trajectories - self.num_resolved - self.num_unresolved


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledStep:
    """A step example with what is measured on it."""

    example_id: str
    instance_id: str
    part: Part
    kind: ActionKind
    prompt: tuple[Message, ...]
    """Rendered within the limits of the survey."""
    thought: str
    action: str
    observation: str
    previous_action: str | None
    """The last action of the context, None at the start of a trajectory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonAction:
    """The most common action of train, overall or of one kind."""

    action: str
    count: int
    is_exact: bool
    """False = there were so many different actions that rare ones were forgotten while counting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What one pass over a set finds."""

    num_trajectories: Mapping[Part, int]
    num_examples: Mapping[Part, int]
    num_instances: int
    num_repos: int
    sources: tuple[SourceCounts, ...]
    """The largest first."""
    step_counts: Mapping[int, int]
    """Number of steps -> trajectories with so many."""
    kinds: Mapping[ActionKind, Mapping[Part, int]]
    """Step examples by kind of the expert's action, the most frequent kind first."""
    common: Mapping[ActionKind | None, CommonAction]
    """By kind; None = overall."""
    steps: tuple[SampledStep, ...]
    """A sample of both parts."""
    scored_steps: tuple[SampledStep, ...]
    """A sample of validation, or of train where validation is empty."""
    problem_statements: tuple[str, ...]
    """A sample, one per trajectory."""
    trajectories: tuple[CompiledTrajectory, ...]
    """A sample of both parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSizes:
    """How much a survey keeps."""

    steps: int
    scored_steps: int
    trajectories: int
    seed: int


def survey_set(
    folder: Path,
    sizes: SampleSizes,
    limits: PromptLimits,
    *,
    on_trajectory: Callable[[CompiledTrajectory], None] = lambda _: None,
) -> Survey:
    """Read a set once.

    Args:
        folder: The set.
        sizes: Of the samples.
        limits: With which the prompts of the sampled steps are rendered.
        on_trajectory: Sees each trajectory as it passes.

    Raises:
        DataError: there is no such set, or it is damaged.
    """
    counting = _Counting(sizes, limits)
    for part in PARTS:
        for compiled in read_compiled(folder, part):
            counting.add(compiled, part)
            on_trajectory(compiled)
    return counting.result()


class _Counting:
    """The survey while it is made."""

    def __init__(self, sizes: SampleSizes, limits: PromptLimits) -> None:
        self._limits = limits
        self._instances: set[str] = set()
        self._num_trajectories: Counter[Part] = Counter()
        self._outcomes: Counter[tuple[str, bool | None]] = Counter()
        self._examples: Counter[str] = Counter()
        self._step_counts: Counter[int] = Counter()
        self._kinds: Counter[tuple[ActionKind, Part]] = Counter()
        self._actions = {kind: BoundedCounter[str](MAX_DISTINCT_ACTIONS) for kind in ActionKind}
        self._steps = Reservoir[SampledStep](sizes.steps, seed=sizes.seed)
        self._part_steps = {part: Reservoir[SampledStep](sizes.scored_steps, seed=sizes.seed) for part in PARTS}
        self._problem_statements = Reservoir[str](sizes.steps, seed=sizes.seed)
        self._trajectories = Reservoir[CompiledTrajectory](sizes.trajectories, seed=sizes.seed)

    def add(self, compiled: CompiledTrajectory, part: Part) -> None:
        trajectory = compiled.trajectory
        self._instances.add(trajectory.instance_id)
        self._num_trajectories[part] += 1
        self._outcomes[trajectory.source, trajectory.resolved] += 1
        self._examples[trajectory.source] += len(compiled.targets)
        self._step_counts[len(trajectory.steps)] += 1
        self._problem_statements.offer(lambda: trajectory.problem_statement)
        self._trajectories.offer(lambda: compiled)
        for index in compiled.targets:
            action = trajectory.steps[index].action
            kind = action_kind(action)
            self._kinds[kind, part] += 1
            if part == "train":
                self._actions[kind].add(action)
            make = partial(self._sampled, compiled, index, part, kind)
            self._steps.offer(make)
            self._part_steps[part].offer(make)

    def _sampled(self, compiled: CompiledTrajectory, index: int, part: Part, kind: ActionKind) -> SampledStep:
        trajectory = compiled.trajectory
        step = trajectory.steps[index]
        history = [HistoryPair(action=each.action, observation=each.observation) for each in trajectory.steps[:index]]
        return SampledStep(
            example_id=f"{trajectory.trajectory_id}#{index}",
            instance_id=trajectory.instance_id,
            part=part,
            kind=kind,
            prompt=tuple(render(trajectory.problem_statement, history, self._limits)),
            thought=step.thought,
            action=step.action,
            observation=step.observation,
            previous_action=history[-1].action if history else None,
        )

    def result(self) -> Survey:
        by_kind: Counter[ActionKind] = Counter()
        for (kind, _), count in self._kinds.items():
            by_kind[kind] += count
        return Survey(
            num_trajectories={part: self._num_trajectories[part] for part in PARTS},
            num_examples={part: sum(self._kinds[kind, part] for kind in ActionKind) for part in PARTS},
            num_instances=len(self._instances),
            num_repos=len({repo_of(instance_id) for instance_id in self._instances}),
            sources=self._source_counts(),
            step_counts=dict(sorted(self._step_counts.items())),
            kinds={kind: {part: self._kinds[kind, part] for part in PARTS} for kind, _ in by_kind.most_common()},
            common=self._common_actions(),
            steps=self._steps.items,
            scored_steps=self._part_steps["validation"].items or self._part_steps["train"].items,
            problem_statements=self._problem_statements.items,
            trajectories=self._trajectories.items,
        )

    def _source_counts(self) -> tuple[SourceCounts, ...]:
        found = [
            SourceCounts(
                source=source,
                num_trajectories=sum(self._outcomes[source, resolved] for resolved in (True, False, None)),
                num_examples=num_examples,
                num_resolved=self._outcomes[source, True],
                num_unresolved=self._outcomes[source, False],
            )
            for source, num_examples in self._examples.items()
        ]
        return tuple(sorted(found, key=lambda counts: (-counts.num_examples, counts.source)))

    def _common_actions(self) -> dict[ActionKind | None, CommonAction]:
        common: dict[ActionKind | None, CommonAction] = {}
        for kind, counter in self._actions.items():
            if (found := counter.most_common()) is not None:
                common[kind] = CommonAction(action=found[0], count=found[1], is_exact=counter.is_exact)
        if common:
            common[None] = max(common.values(), key=lambda each: each.count)
        return common
