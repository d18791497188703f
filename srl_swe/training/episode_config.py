"""Options of the episodes that outcome RL plays: limits, parallelism, what their reward is made of.

Leaves out what is common to all methods (`config.py`). The strings under the fields are the help text.
"""

from dataclasses import dataclass

from srl_swe.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeConfig:
    """For method rlvr alone: how the policy acts, and what an episode's reward is made of. The other methods play no
    episodes."""

    max_steps: int = 40
    """Actions an episode may take. At this and every other limit, what stands until then is judged, as
    `srl-swe eval` does."""
    max_episode_tokens: int | None = None
    """Completion tokens after which an episode is ended. None = no limit but max-steps."""
    max_malformed: int = 3
    """Malformed answers in a row that end an episode."""
    command_timeout_s: float = 60.0
    """Seconds of one command."""
    episode_limit_s: float = 3600.0
    """Seconds of an episode from its start on; sampling and waiting for the others of a round count."""
    start_limit_s: float = 3600.0
    """Seconds that starting an environment may take, its image's build or pull included."""
    judge_limit_s: float = 4500.0
    """Seconds that judging an episode may take (twice the tests' own limit, and what starts before them)."""
    max_parallel: int = 8
    """Episodes that act at once, each with a container; as many more may be judged beside them."""
    infrastructure_attempts: int = 3
    """How often an episode is begun before infrastructure failures make it invalid."""
    fork_after_steps: int = 0
    """After so many actions of an episode, all of a group go on from copies of its container, and only what follows is
    compared and trained on. 0 = each begins at the start."""
    similarity_weight: float = 0.0
    """Share of the reward that comes from the similarity of the actions to an expert's, where the instance has an
    expert trajectory; the verdict has the rest. 0 = the verdict alone, as in the paper."""

    def __post_init__(self) -> None:
        counts = ("max_steps", "max_episode_tokens", "max_malformed", "max_parallel", "infrastructure_attempts")
        for name in counts:
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ConfigError(f"{name} must be an integer of at least 1, found {count!r}")
        if not 0 <= self.fork_after_steps < self.max_steps:
            raise ConfigError(
                f"fork_after_steps must be in [0, max_steps = {self.max_steps}), found {self.fork_after_steps!r}"
            )
        for name in ("command_timeout_s", "episode_limit_s", "start_limit_s", "judge_limit_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0 seconds, found {getattr(self, name)!r}")
        if not 0 <= self.similarity_weight <= 1:
            raise ConfigError(f"similarity_weight must be a number in [0, 1], found {self.similarity_weight!r}")


MAY_CHANGE_ON_RESUME = frozenset({"start_limit_s", "judge_limit_s", "max_parallel", "infrastructure_attempts"})
"""Options that do not decide what an iteration learns (last digits may move with the number of episodes at once)."""
