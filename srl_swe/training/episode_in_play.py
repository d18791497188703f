"""An episode that training plays, while it is played. Leaves out the rounds that it is played in (`episodes.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import gymnasium as gym

from srl_swe.training.episode_outcomes import EpisodeEnding, EpisodeJob
from srl_swe.training.samplers import SampledCompletion
from srl_swe.types import HistoryPair, Rollout, StepExample

Environment = gym.Env[str, str]


@dataclass(kw_only=True, slots=True, eq=False)
class EpisodeInPlay:
    """An episode in progress. It belongs to the main thread, its environment to one thread at a time."""

    place: int
    job: EpisodeJob
    attempt: int = 1
    num_lost_tokens: int = 0
    environment: Environment | None = None
    started: float = 0.0
    history: list[HistoryPair] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)
    num_steps: int = 0
    num_malformed_in_a_row: int = 0
    chosen: "Choice | None" = None
    """The answer whose action is being taken."""
    ending: EpisodeEnding | None = None

    @property
    def num_answers(self) -> int:
        """Return the answers of the whole episode."""
        return len(self.rollouts) + (self.job.fork.num_answers if self.job.fork else 0)

    @property
    def num_all_tokens(self) -> int:
        """Return the completion tokens of the whole episode."""
        return self.num_completion_tokens + (self.job.fork.num_tokens if self.job.fork else 0)

    @property
    def num_completion_tokens(self) -> int:
        """Return the completion tokens of this job alone."""
        sampled = [len(rollout.completion_ids) for rollout in self.rollouts]
        return sum(sampled) + (len(self.chosen.sample.ids) if self.chosen else 0)

    @property
    def context(self) -> StepExample:
        """The context of the next answer, in the shape that renderers read."""
        start = self.job.start
        return StepExample(
            example_id=start.example_id,
            instance_id=start.instance_id,
            trajectory_id=start.trajectory_id,
            step_index=len(self.history),
            problem_statement=start.problem_statement,
            history=tuple(self.history),
            expert_thought="",
            expert_action="",
        )

    def add_answer(self, choice: "Choice", *, reward: float, well_formed: bool) -> None:
        """Keep an answer as it was sampled: the ids that were fed and the ids that came, never their text again."""
        self.chosen = None
        self.rollouts.append(
            Rollout(
                prompt_ids=tuple(choice.prompt),
                completion_ids=choice.sample.ids,
                sampling_logprobs=choice.sample.logprobs,
                text=choice.sample.text,
                reward=reward,
                reward_parts={"well_formed": float(well_formed)},
                stop_reason=choice.sample.stop_reason,
            )
        )


def begin(place: int, job: EpisodeJob) -> EpisodeInPlay:
    """Return an episode that goes on from the job's fork, or from its start."""
    if job.fork is None:
        return EpisodeInPlay(place=place, job=job)
    return EpisodeInPlay(place=place, job=job, history=list(job.fork.history), num_steps=job.fork.num_steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """An answer whose action is not taken yet."""

    prompt: Sequence[int]
    sample: SampledCompletion
    action: str
