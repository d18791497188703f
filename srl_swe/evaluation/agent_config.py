"""How agents act, whatever they are, and what they leave behind."""

from collections.abc import Mapping
from dataclasses import dataclass

from srl_swe.errors import ConfigError
from srl_swe.evaluation.episodes import EpisodeResult
from srl_swe.types import Prediction


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentConfig:
    """How the model acts."""

    max_steps: int = 40
    """Commands an episode may run."""
    max_malformed: int = 3
    """Malformed answers in a row that end an episode."""
    max_completion_tokens: int = 1024
    temperature: float = 0.0
    """0 = greedy, as the paper evaluates."""
    seed: int = 0
    max_episode_tokens: int | None = None
    """Prompt and completion tokens of an episode, all its calls together; a call that might exceed it is not made.
    Behind an endpoint a prompt counts a token per byte until the endpoint says how many it had. None = no limit."""
    command_timeout_s: float = 60.0
    episode_limit_s: float = 3600.0
    """Wall-clock limit of an episode, from its start on; sampling and waiting for it count."""
    start_limit_s: float = 3600.0
    """Longest that starting an environment may take, its image's build or pull included."""
    infrastructure_attempts: int = 3
    """How often an episode is begun before infrastructure failures make it invalid."""
    max_parallel: int = 4
    """Episodes open at once, each with a container: at most so many completions are sampled side by side. Also gradings
    at once; half as many while episodes are played. With several engines, at each of them."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_malformed", "max_completion_tokens", "infrastructure_attempts", "max_parallel"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_episode_tokens is not None and self.max_episode_tokens < 1:
            raise ConfigError(f"max_episode_tokens must be at least 1, not {self.max_episode_tokens}")
        for name in ("command_timeout_s", "episode_limit_s", "start_limit_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0 seconds, not {getattr(self, name)}")
        if self.temperature < 0:
            raise ConfigError(f"temperature must be at least 0, not {self.temperature}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentOutcome:
    """What the agent left behind."""

    predictions: tuple[Prediction, ...]
    """Of all instances asked for that have one, those of earlier runs included."""
    episodes: tuple[EpisodeResult, ...]
    """Finished in this run."""
    invalid: Mapping[str, str]
    """Instance id -> infrastructure failure that left it without a prediction; the next run tries again."""
