"""Trajectories -> step examples: which trajectories and which of their steps are used.

Every exclusion is counted. Leaves out the split (`splits`), files (`store`) and prompts (`srl_swe.prompts`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from srl_swe.errors import ConfigError
from srl_swe.prompts import cut_middle
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.trajectories.splits import SWE_BENCH_TEST_REPOS, repo_key, repo_of
from srl_swe.types import CompiledTrajectory, HistoryPair, Step, StepExample, Trajectory

_MALFORMED = (Reason.MALFORMED_CALL, Reason.UNKNOWN_CALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFilter:
    """Which trajectories are used, and which of their steps are targets. Histories stay whole in any case."""

    resolved_only: bool = False
    """Drop trajectories that are known not to have resolved their instance."""
    known_outcome_only: bool = False
    """Drop trajectories whose outcome the file does not tell; otherwise they are kept and counted."""
    exit_statuses: frozenset[str] = frozenset()
    """Keep only trajectories that ended so, for example submitted (case ignored); those that do not say are kept."""
    min_steps: int | None = None
    """Drop trajectories with fewer steps than this."""
    max_steps: int | None = None
    """Drop trajectories with more steps than this."""
    max_identical_steps: int | None = None
    """Drop trajectories in which one action brings the same observation more often than this: they go in a circle."""
    max_malformed_calls: int | None = None
    """Drop trajectories with more calls than this that could not be parsed or are unknown."""
    drop_repeats: bool = True
    """A step that takes the very action of the step before is no target."""
    last_step_is_target: bool = True
    """False = the paper's rule: of N steps, the targets are 1 to N-1 (arXiv 2510.25992, section 3)."""
    max_action_chars: int | None = None
    """A step with a longer action is no target."""
    max_observation_chars: int = 200_000
    """A longer observation loses its middle."""
    exclude_instances: frozenset[str] = frozenset()
    """Instance ids left out, for example those that an evaluation uses."""
    exclude_repos: frozenset[str] = frozenset()
    """Repositories left out, as "owner/name" or "owner__name"."""
    allow_swe_bench_repos: bool = False
    """Keep trajectories on the twelve repositories of SWE-bench's test split, Lite and Verified. They are left out
    unless asked for: a model that was trained on them cannot be evaluated there."""

    def __post_init__(self) -> None:
        for field, least in (
            ("min_steps", 1),
            ("max_steps", 1),
            ("max_action_chars", 1),
            ("max_identical_steps", 1),
            ("max_malformed_calls", 0),
            ("max_observation_chars", 100),
        ):
            value = getattr(self, field)
            if value is not None and value < least:
                raise ConfigError(f"{field} is {value}; it must be at least {least}, or None for no limit")

    @property
    def excluded_repos(self) -> frozenset[str]:
        """Repositories that are left out, as `repo_of` writes them."""
        evaluated = frozenset() if self.allow_swe_bench_repos else SWE_BENCH_TEST_REPOS
        return frozenset(repo_key(repo) for repo in self.exclude_repos | evaluated)


def compile_trajectory(
    trajectory: Trajectory, step_filter: StepFilter, drops: DropCounter, *, num_malformed: int = 0, where: str = ""
) -> CompiledTrajectory | None:
    """Choose the targets of a trajectory, or count why it is left out.

    Args:
        trajectory: What a reader gave.
        step_filter: The rules.
        drops: Where drops are counted, under the trajectory's source.
        num_malformed: Calls of it that its reader had to leave out as malformed or unknown.
        where: How `drops` names it; by default its id.
    """
    where = where or trajectory.trajectory_id
    reason = _reason_to_drop(trajectory, step_filter, num_malformed)
    if reason is not None:
        drops.drop(trajectory.source, reason, where)
        return None
    if trajectory.resolved is None:
        drops.note(trajectory.source, Reason.KEPT_UNKNOWN_OUTCOME, where)
    trajectory = _with_short_observations(trajectory, step_filter.max_observation_chars, drops, where)
    targets = []
    for index in range(len(trajectory.steps)):
        reason = _reason_for_no_target(trajectory, index, step_filter)
        if reason is None:
            targets.append(index)
        else:
            drops.drop(trajectory.source, reason, f"{where}, step {index}")
    if not targets:
        drops.drop(trajectory.source, Reason.NO_TARGETS, where)
        return None
    return CompiledTrajectory(trajectory=trajectory, targets=tuple(targets))


def compile_trajectories(
    trajectories: Iterable[Trajectory], *, step_filter: StepFilter, drops: DropCounter
) -> Iterator[CompiledTrajectory]:
    """Yield the trajectories that the filter keeps, in order, with their targets."""
    for trajectory in trajectories:
        compiled = compile_trajectory(trajectory, step_filter, drops)
        if compiled is not None:
            yield compiled


def step_examples(compiled: CompiledTrajectory) -> Iterator[StepExample]:
    """Yield one example for each target, in order, with everything before it as history."""
    trajectory = compiled.trajectory
    pairs = tuple(HistoryPair(action=step.action, observation=step.observation) for step in trajectory.steps)
    for index in compiled.targets:
        yield StepExample(
            example_id=f"{trajectory.trajectory_id}#{index}",
            instance_id=trajectory.instance_id,
            trajectory_id=trajectory.trajectory_id,
            step_index=index,
            problem_statement=trajectory.problem_statement,
            history=pairs[:index],
            expert_thought=trajectory.steps[index].thought,
            expert_action=trajectory.steps[index].action,
        )


def count_malformed(drops: DropCounter) -> int:
    """Return how many calls were left out as malformed or unknown."""
    return sum(count for (_, reason), count in drops.counts.items() if reason in _MALFORMED)


def _reason_to_drop(trajectory: Trajectory, step_filter: StepFilter, num_malformed: int) -> Reason | None:
    num_steps = len(trajectory.steps)
    if trajectory.instance_id in step_filter.exclude_instances:
        return Reason.EXCLUDED_INSTANCE
    if repo_of(trajectory.instance_id) in step_filter.excluded_repos:
        return Reason.EXCLUDED_REPO
    if step_filter.resolved_only and trajectory.resolved is False:
        return Reason.NOT_RESOLVED
    if step_filter.known_outcome_only and trajectory.resolved is None:
        return Reason.UNKNOWN_OUTCOME
    told = trajectory.exit_status.strip().lower()
    if step_filter.exit_statuses and told and told not in {status.lower() for status in step_filter.exit_statuses}:
        return Reason.EXIT_STATUS
    if step_filter.min_steps is not None and num_steps < step_filter.min_steps:
        return Reason.TOO_FEW_STEPS
    if step_filter.max_steps is not None and num_steps > step_filter.max_steps:
        return Reason.TOO_MANY_STEPS
    if step_filter.max_malformed_calls is not None and num_malformed > step_filter.max_malformed_calls:
        return Reason.FORMAT_NOISE
    if step_filter.max_identical_steps is not None and _most_identical(trajectory) > step_filter.max_identical_steps:
        return Reason.LOOP
    return None


def _most_identical(trajectory: Trajectory) -> int:
    """Return how often the most frequent pair of action and observation occurs."""
    counts = Counter((step.action, step.observation) for step in trajectory.steps)
    return max(counts.values(), default=0)


def _with_short_observations(trajectory: Trajectory, max_chars: int, drops: DropCounter, where: str) -> Trajectory:
    if all(len(step.observation) <= max_chars for step in trajectory.steps):
        return trajectory
    steps: list[Step] = []
    for index, step in enumerate(trajectory.steps):
        if len(step.observation) > max_chars:
            drops.note(trajectory.source, Reason.CUT_OBSERVATION, f"{where}, step {index}")
            step = replace(step, observation=cut_middle(step.observation, max_chars))
        steps.append(step)
    return replace(trajectory, steps=tuple(steps))


def _reason_for_no_target(trajectory: Trajectory, index: int, step_filter: StepFilter) -> Reason | None:
    steps = trajectory.steps
    if not steps[index].action.strip():
        return Reason.EMPTY_ACTION
    if not step_filter.last_step_is_target and index == len(steps) - 1:
        return Reason.LAST_STEP
    if step_filter.drop_repeats and index and steps[index].action == steps[index - 1].action:
        return Reason.REPEATED_ACTION
    if step_filter.max_action_chars is not None and len(steps[index].action) > step_filter.max_action_chars:
        return Reason.ACTION_TOO_LONG
    return None
