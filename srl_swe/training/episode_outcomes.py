"""What is asked of an episode that training plays, and what came of it. Leaves out the playing (`episodes.py`)."""

from dataclasses import dataclass
from typing import Literal

from srl_swe.closing import Closing
from srl_swe.types import HistoryPair, Rollout, StepExample

EpisodeEnding = Literal["submitted", "step_limit", "token_limit", "time_limit", "context", "malformed"]
"""Who ended an episode: the policy, else the limit that was reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForkPoint:
    """A state in the middle of an episode, from which others go on."""

    snapshot: Closing
    """Whoever asked for the fork closes it."""
    history: tuple[HistoryPair, ...]
    num_steps: int
    num_answers: int
    num_tokens: int
    """Completion tokens that led here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lead:
    """What an episode came to that was played to fork others off."""

    forked: bool
    """False = it ended before, or infrastructure ended it."""
    num_tokens: int
    num_lost_tokens: int
    """Completion tokens of attempts that infrastructure ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedLead:
    """A lead, and where it was left."""

    lead: Lead
    fork: ForkPoint | None
    """None = it has not forked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeJob:
    """An episode to be played."""

    start: StepExample
    """The context that it starts from; its history is empty."""
    seed: int
    """Decides, with the observations, all that is sampled."""
    fork: ForkPoint | None = None
    """Where it goes on from; None = the start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedEpisode:
    """An episode with a reward."""

    rollouts: tuple[Rollout, ...]
    """One per answer, malformed ones included; the reward of each is what the environment gave for its action."""
    reward: float
    resolved: bool
    ending: EpisodeEnding
    num_steps: int
    """Actions that were taken, the policy's own last one included."""
    num_lost_tokens: int
    """Completion tokens of earlier attempts that infrastructure ended."""

    @property
    def num_completion_tokens(self) -> int:
        """Return the completion tokens of its rollouts."""
        return sum(len(rollout.completion_ids) for rollout in self.rollouts)


@dataclass(frozen=True, kw_only=True, slots=True)
class InvalidEpisode:
    """An episode that infrastructure ended in every attempt: it has no reward, not even 0."""

    reason: str
    num_lost_tokens: int


EpisodeOutcome = PlayedEpisode | InvalidEpisode
