"""Trajectories -> step examples: which trajectories and which of their steps are used, and the split by instance.

Every exclusion is counted. Leaves out files (`store`) and prompts (`srl_swe.prompts`).
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from srl_swe.errors import ConfigError
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.types import HistoryPair, StepExample, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFilter:
    """Which trajectories are used, and which of their steps are targets. Histories stay whole in any case."""

    resolved_only: bool = False
    """Drop trajectories that are known not to have resolved their instance."""
    known_outcome_only: bool = False
    """Drop trajectories whose outcome the file does not tell; otherwise they are kept and counted."""
    max_steps: int | None = None
    """Drop trajectories with more steps than this."""
    drop_repeats: bool = True
    """A step that takes the very action of the step before is no target."""
    last_step_is_target: bool = True
    """False = the paper's rule: of N steps, the targets are 1 to N-1 (arXiv 2510.25992, section 3)."""
    max_action_chars: int | None = None
    """A step with a longer action is no target."""
    exclude_instances: frozenset[str] = frozenset()
    """Instance ids left out, for example those that an evaluation uses."""
    exclude_repos: frozenset[str] = frozenset()
    """Repositories left out, as "owner/name" or "owner__name"."""

    def __post_init__(self) -> None:
        for field in ("max_steps", "max_action_chars"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(f"{field} is {value}; it must be at least 1, or None for no limit")


def compile_steps(
    trajectories: Iterable[Trajectory], *, step_filter: StepFilter, drops: DropCounter
) -> Iterator[StepExample]:
    """Yield the step examples of each trajectory in order, those of one trajectory next to each other."""
    for trajectory in trajectories:
        reason = _reason_to_drop(trajectory, step_filter)
        if reason is not None:
            drops.drop(trajectory.source, reason, trajectory.trajectory_id)
            continue
        if trajectory.resolved is None:
            drops.note(trajectory.source, Reason.KEPT_UNKNOWN_OUTCOME, trajectory.trajectory_id)
        pairs = tuple(HistoryPair(action=step.action, observation=step.observation) for step in trajectory.steps)
        for index, step in enumerate(trajectory.steps):
            reason = _reason_for_no_target(trajectory, index, step_filter)
            if reason is not None:
                drops.drop(trajectory.source, reason, f"{trajectory.trajectory_id}, step {index}")
                continue
            yield StepExample(
                example_id=f"{trajectory.trajectory_id}#{index}",
                instance_id=trajectory.instance_id,
                trajectory_id=trajectory.trajectory_id,
                step_index=index,
                problem_statement=trajectory.problem_statement,
                history=pairs[:index],
                expert_thought=step.thought,
                expert_action=step.action,
            )


def split_by_instance(
    instance_ids: Iterable[str],
    *,
    validation_share: float | None = None,
    num_validation: int | None = None,
    seed: int = 0,
) -> frozenset[str]:
    """Return the instance ids held out for validation; no instance is on both sides.

    The choice depends on the set of ids and the seed alone, not on their order. With a share, an id's side does not
    change when other ids come or go, except that at least one id stays on either side where there are two or more.

    Args:
        instance_ids: Ids, repetitions allowed.
        validation_share: Share of the instances, 0 to below 1. Exactly one of this and `num_validation` is given.
        num_validation: Number of instances.
        seed: Another seed, another choice.

    Raises:
        ConfigError: both or none of the two sizes are given, or one is out of its range.
    """
    if (validation_share is None) == (num_validation is None):
        raise ConfigError("give exactly one of validation_share and num_validation")
    ranked = sorted(set(instance_ids), key=lambda instance_id: (_unit_hash(instance_id, seed), instance_id))
    if num_validation is not None:
        if not 0 <= num_validation < max(1, len(ranked)):
            raise ConfigError(
                f"num_validation is {num_validation}; with {len(ranked)} instances it must be 0 to {len(ranked) - 1}"
            )
        return frozenset(ranked[:num_validation])
    assert validation_share is not None
    if not 0 <= validation_share < 1:
        raise ConfigError(f"validation_share is {validation_share}; it must be 0 or more and below 1")
    count = sum(_unit_hash(instance_id, seed) < validation_share for instance_id in ranked)
    if validation_share > 0 and len(ranked) > 1:
        count = min(max(count, 1), len(ranked) - 1)
    return frozenset(ranked[:count])


def _unit_hash(instance_id: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{instance_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _reason_to_drop(trajectory: Trajectory, step_filter: StepFilter) -> Reason | None:
    if trajectory.instance_id in step_filter.exclude_instances:
        return Reason.EXCLUDED_INSTANCE
    if any(_is_in_repo(trajectory.instance_id, repo) for repo in step_filter.exclude_repos):
        return Reason.EXCLUDED_REPO
    if step_filter.resolved_only and trajectory.resolved is False:
        return Reason.NOT_RESOLVED
    if step_filter.known_outcome_only and trajectory.resolved is None:
        return Reason.UNKNOWN_OUTCOME
    if step_filter.max_steps is not None and len(trajectory.steps) > step_filter.max_steps:
        return Reason.TOO_MANY_STEPS
    return None


def _is_in_repo(instance_id: str, repo: str) -> bool:
    """Tell whether an id is `owner__name-123` (SWE-bench) or `owner__name.commit.…` (SWE-smith)."""
    prefix = repo.replace("/", "__").lower()
    return instance_id.lower().startswith((f"{prefix}-", f"{prefix}."))


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
