"""What experts did on instances, and the rewards that an episode gets by it. Left out: the episode (`swe_env.py`)."""

from collections.abc import Sequence

from srl_swe.errors import ConfigError, DataError
from srl_swe.rewards import similarity
from srl_swe.types import Step, Trajectory


class ExpertRewards:
    """Similarity to an expert where one is known, the verdict where none is, or both blended by a weight."""

    def __init__(self, trajectories: Sequence[Trajectory], similarity_weight: float | None) -> None:
        """Take at most one trajectory of an instance; see `SWEEnv` for the rewards.

        Raises:
            ConfigError: the weight is no share, or there is nothing to blend in.
            DataError: two trajectories are of one instance, or one has no steps.
        """
        if similarity_weight is not None and not 0 <= similarity_weight <= 1:
            raise ConfigError(f"SWEEnv: similarity_weight is {similarity_weight}; expected a number in [0, 1] or None")
        if similarity_weight is not None and not trajectories:
            raise ConfigError("SWEEnv: similarity_weight blends in the similarity to an expert; give trajectories")
        self._similarity_weight = similarity_weight
        self.steps_by_instance: dict[str, tuple[Step, ...]] = {}
        """By instance id, in the order of the trajectories."""
        for trajectory in trajectories:
            if trajectory.instance_id in self.steps_by_instance:
                raise DataError(f"SWEEnv: two trajectories are for {trajectory.instance_id}; choose one of them")
            if not trajectory.steps:
                raise DataError(f"SWEEnv: trajectory {trajectory.trajectory_id} has no steps")
            self.steps_by_instance[trajectory.instance_id] = trajectory.steps

    def steps(self, instance_id: str) -> tuple[Step, ...]:
        """Return what the expert did on an instance; () where none is known."""
        return self.steps_by_instance.get(instance_id, ())

    def next_action(self, instance_id: str, num_steps: int) -> str | None:
        """Return the expert's action after so many steps; None where it took none any more."""
        steps = self.steps(instance_id)
        return steps[num_steps].action if num_steps < len(steps) else None

    def of_action(self, action: str, instance_id: str, num_steps: int) -> float:
        """Return the reward of an action after so many steps."""
        expert = self.next_action(instance_id, num_steps)
        if expert is None:
            return 0.0
        weight = 1.0 if self._similarity_weight is None else self._similarity_weight / len(self.steps(instance_id))
        return weight * similarity(action, expert)

    def of_resolving(self, instance_id: str) -> float:
        """Return the reward of a resolved verdict."""
        if not self.steps(instance_id):
            return 1.0
        return 0.0 if self._similarity_weight is None else 1.0 - self._similarity_weight
