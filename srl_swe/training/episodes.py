"""Episodes as training plays them: the policy acts in environments until each episode has ended, and every answer is
kept as the tokens that were given and sampled.

A round samples one completion for every acting episode in a single batch, then takes the actions side by side. An
episode that ends leaves the rounds at once and is judged beside them. What is sampled depends on the seeds and the
observations alone, not on how long anything took. Leaves out what the rewards are used for (`outcome.py`).
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from srl_swe.closing import Closing
from srl_swe.errors import ContainerError, EngineUnavailableError, ImageError, MalformedCompletionError, SrlSweError
from srl_swe.pool import WorkPool, WorkTimeoutError
from srl_swe.training.batches import longest_prompt
from srl_swe.training.config import TrainConfig
from srl_swe.training.domain import Acting, Domain
from srl_swe.training.episode_in_play import Choice, Environment, EpisodeInPlay, begin
from srl_swe.training.episode_outcomes import (
    EpisodeEnding,
    EpisodeJob,
    EpisodeOutcome,
    ForkPoint,
    InvalidEpisode,
    Lead,
    PlayedEpisode,
    PlayedLead,
)
from srl_swe.training.faults import memory_explained
from srl_swe.training.policy import Policy
from srl_swe.training.samplers import SampledCompletion, Sampler, mix_seed
from srl_swe.types import HistoryPair

_STOP_LIMIT_S = 10.0
_TICK_S = 0.5

logger = logging.getLogger(__name__)

Answered = tuple[str, float, bool, bool, dict[str, Any]]
"""What an environment's `step` returns."""


def play_episodes(
    jobs: Sequence[EpisodeJob],
    *,
    policy: Policy,
    sampler: Sampler,
    domain: Domain,
    acting: Acting,
    config: TrainConfig,
    temperature: float,
    on_episode_done: Callable[[], None] = lambda: None,
) -> list[EpisodeOutcome]:
    """Play all episodes to their end and return what became of each, in order.

    No environment stays open, whatever happens.

    Raises:
        EngineUnavailableError: no episode could go on.
        SamplerError: the sampling engine failed.
    """
    rounds = _Rounds(policy, sampler, domain, acting, config, temperature, on_episode_done)
    return [outcome for outcome in rounds.play(jobs) if not isinstance(outcome, PlayedLead)]


def play_to_forks(
    jobs: Sequence[EpisodeJob],
    *,
    policy: Policy,
    sampler: Sampler,
    domain: Domain,
    acting: Acting,
    config: TrainConfig,
    temperature: float,
) -> list[PlayedLead]:
    """Play each episode until it has taken `fork_after_steps` actions; one that ends earlier is not judged.

    No environment stays open. The caller closes the snapshots.

    Raises:
        EngineUnavailableError: no episode could go on.
        SamplerError: the sampling engine failed.
    """
    after = config.episodes.fork_after_steps
    rounds = _Rounds(policy, sampler, domain, acting, config, temperature, lambda: None, fork_after=after)
    return [outcome for outcome in rounds.play(jobs) if isinstance(outcome, PlayedLead)]


class _Rounds:
    """One call of `play_episodes`."""

    def __init__(
        self,
        policy: Policy,
        sampler: Sampler,
        domain: Domain,
        acting: Acting,
        config: TrainConfig,
        temperature: float,
        on_episode_done: Callable[[], None],
        *,
        fork_after: int = 0,
    ) -> None:
        self._fork_after = fork_after
        self._policy = policy
        self._sampler = sampler
        self._domain = domain
        self._acting = acting
        self._config = config
        self._limits = config.episodes
        self._temperature = temperature
        self._on_episode_done = on_episode_done
        self._max_prompt_tokens = longest_prompt(policy, config.max_prompt_tokens, config.max_completion_tokens)
        self._pool = WorkPool(self._limits.max_parallel)
        self._judges = WorkPool(self._limits.max_parallel)
        self._judging = self._judges.in_background(self._judge, limit_s=lambda _: self._limits.judge_limit_s)
        self._waiting: deque[EpisodeInPlay] = deque()
        self._active: list[EpisodeInPlay] = []
        self._open_ones: list[EpisodeInPlay] = []
        self._outcomes: dict[int, EpisodeOutcome | PlayedLead] = {}

    def play(self, jobs: Sequence[EpisodeJob]) -> list[EpisodeOutcome | PlayedLead]:
        self._waiting.extend(begin(place, job) for place, job in enumerate(jobs))
        try:
            while self._waiting or self._active or self._judging.num_pending:
                self._take_judged()
                while self._waiting and len(self._active) < self._limits.max_parallel:
                    self._active.append(self._waiting.popleft())
                self._open([episode for episode in self._active if episode.environment is None])
                self._take_actions(self._decide())
                if self._fork_after:
                    self._fork([episode for episode in self._active if episode.num_steps >= self._fork_after])
        except BaseException:
            for outcome in self._outcomes.values():
                if isinstance(outcome, PlayedLead) and outcome.fork:
                    outcome.fork.snapshot.close()
            raise
        finally:
            for episode in [*self._active, *self._open_ones]:
                self._leave(episode)
            # Environments still being started are closed by their own threads, which see that they are late.
            self._pool.join(_STOP_LIMIT_S)
            self._judges.join(_STOP_LIMIT_S)
        return [self._outcomes[place] for place in range(len(jobs))]

    def _open(self, episodes: Sequence[EpisodeInPlay]) -> None:
        limit_s = self._limits.start_limit_s
        for episode, outcome in self._pool.run(episodes, self._start, limit_s=lambda _: limit_s):
            if isinstance(outcome, Exception):
                self._fail(episode, outcome, retry=False)
            else:
                episode.environment = outcome
                episode.started = time.monotonic()
                self._open_ones.append(episode)

    def _start(self, episode: EpisodeInPlay) -> Environment:
        retrying = Retrying(
            retry=retry_if_exception_type(ContainerError) & retry_if_not_exception_type(ImageError),
            stop=stop_after_attempt(self._limits.infrastructure_attempts + 1 - episode.attempt),
            wait=wait_exponential_jitter(initial=1.0, max=20.0),
            reraise=True,
        )
        fork = episode.job.fork
        if fork:
            environment = retrying(self._acting.restore, fork.snapshot)
        else:
            environment = retrying(self._acting.open_environment, episode.job.start.instance_id)
        if episode not in self._active:
            environment.close()
            raise ContainerError(f"{episode.job.start.instance_id}: the start came after its limit")
        return environment

    def _decide(self) -> list[EpisodeInPlay]:
        """Sample an answer for each acting episode; return those that have chosen an action to be taken now."""
        asked: list[tuple[EpisodeInPlay, list[int]]] = []
        for episode in list(self._active):
            ending = self._limit_reached(episode)
            prompt = None if ending else self._prompt_for(episode)
            if prompt is None:
                self._end(episode, ending or "context")
            else:
                asked.append((episode, prompt))
        acting = []
        for (episode, prompt), sample in zip(asked, self._sample(asked), strict=True):
            try:
                action = self._domain.parse(sample.text).action
            except MalformedCompletionError as error:
                episode.add_answer(Choice(prompt=prompt, sample=sample, action=""), reward=0.0, well_formed=False)
                episode.history.append(self._acting.answer_malformed(str(error), sample.stop_reason == "length"))
                episode.num_malformed_in_a_row += 1
                continue
            episode.num_malformed_in_a_row = 0
            episode.chosen = Choice(prompt=prompt, sample=sample, action=action)
            if action.strip() == self._acting.last_action:
                self._end(episode, "submitted")
            else:
                acting.append(episode)
        return acting

    def _prompt_for(self, episode: EpisodeInPlay) -> list[int] | None:
        prompt = self._policy.encode_prompt(self._domain.render(episode.context))
        return prompt if len(prompt) <= self._max_prompt_tokens else None

    def _sample(self, asked: Sequence[tuple[EpisodeInPlay, list[int]]]) -> list[SampledCompletion]:
        if not asked:
            return []
        prompts = [prompt for _, prompt in asked]
        sizes = {
            "prompts": len(prompts),
            "tokens of the longest prompt": max(map(len, prompts)),
            "max_completion_tokens": self._config.max_completion_tokens,
        }
        with memory_explained("sampling", sizes, advice="lower --max-parallel, --cached-tokens, --concurrent-rollouts"):
            groups = self._sampler.sample(
                prompts,
                num_rollouts=1,
                max_completion_tokens=self._config.max_completion_tokens,
                temperature=self._temperature,
                seed=[mix_seed(episode.job.seed, episode.num_answers) for episode, _ in asked],
            )
        return [group[0] for group in groups]

    def _limit_reached(self, episode: EpisodeInPlay) -> EpisodeEnding | None:
        limits = self._limits
        if episode.num_malformed_in_a_row >= limits.max_malformed:
            return "malformed"
        if episode.num_steps >= limits.max_steps:
            return "step_limit"
        if limits.max_episode_tokens is not None and episode.num_all_tokens >= limits.max_episode_tokens:
            return "token_limit"
        if time.monotonic() - episode.started > limits.episode_limit_s:
            return "time_limit"
        return None

    def _take_actions(self, episodes: Sequence[EpisodeInPlay]) -> None:
        # Ten times the command's limit leaves room for the environment's own recovery after it.
        limit_s = 10 * self._limits.command_timeout_s + 120
        for episode, outcome in self._pool.run(episodes, self._step, limit_s=lambda _: limit_s):
            if isinstance(outcome, Exception):
                self._fail(episode, outcome, retry=True)
                continue
            assert episode.chosen is not None
            action = episode.chosen.action
            observation, reward, terminated, truncated, info = outcome
            episode.add_answer(episode.chosen, reward=reward, well_formed=True)
            episode.num_steps += 1
            episode.history.append(HistoryPair(action=action, observation=observation))
            if terminated or truncated:
                episode.ending = "submitted" if terminated else "time_limit"
                self._finish(episode, info, added_reward=0.0)

    def _fork(self, episodes: Sequence[EpisodeInPlay]) -> None:
        """Keep the states of episodes, which end here."""
        limit_s = self._limits.start_limit_s
        for episode, outcome in self._pool.run(episodes, self._snapshot, limit_s=lambda _: limit_s):
            if isinstance(outcome, Exception):
                self._fail(episode, outcome, retry=True)
                continue
            fork = ForkPoint(
                snapshot=outcome,
                history=tuple(episode.history),
                num_steps=episode.num_steps,
                num_answers=episode.num_answers,
                num_tokens=episode.num_all_tokens,
            )
            self._end_lead(episode, fork)

    def _end_lead(self, episode: EpisodeInPlay, fork: ForkPoint | None) -> None:
        self._leave(episode)
        lead = Lead(
            forked=fork is not None,
            num_tokens=episode.num_completion_tokens,
            num_lost_tokens=episode.num_lost_tokens,
        )
        self._outcomes[episode.place] = PlayedLead(lead=lead, fork=fork)

    def _snapshot(self, episode: EpisodeInPlay) -> Closing:
        assert episode.environment is not None
        snapshot = self._acting.snapshot(episode.environment)
        if episode not in self._active:
            snapshot.close()
            raise ContainerError(f"{episode.job.start.instance_id}: the snapshot came after its limit")
        return snapshot

    def _step(self, episode: EpisodeInPlay) -> Answered:
        assert episode.environment is not None
        assert episode.chosen is not None
        observation, reward, terminated, truncated, info = episode.environment.step(episode.chosen.action)
        return observation, float(reward), terminated, truncated, info

    def _end(self, episode: EpisodeInPlay, ending: EpisodeEnding) -> None:
        """Let an episode leave the rounds, and have it judged beside them; but a lead, which is compared with none."""
        if self._fork_after:
            self._end_lead(episode, None)
            return
        episode.ending = ending
        self._active.remove(episode)
        self._judging.add(episode)

    def _judge(self, episode: EpisodeInPlay) -> Answered:
        assert episode.environment is not None
        if episode.chosen is None:
            return self._acting.judge(episode.environment)
        return self._step(episode)

    def _take_judged(self) -> None:
        """Take the verdicts that have come; wait where nothing acts, or too many episodes wait to be judged."""
        while True:
            idle = not (self._waiting or self._active)
            wait = self._judging.num_pending > (0 if idle else self._limits.max_parallel)
            for episode, outcome in self._judging.take(timeout_s=_TICK_S if wait else 0.0):
                if isinstance(outcome, Exception):
                    self._fail(episode, outcome, retry=True)
                    continue
                _, reward, _, _, info = outcome
                if episode.chosen is not None:
                    episode.add_answer(episode.chosen, reward=reward, well_formed=True)
                    episode.num_steps += 1
                    reward = 0.0
                self._finish(episode, info, added_reward=reward)
            if not wait:
                return

    def _finish(self, episode: EpisodeInPlay, info: dict[str, Any], *, added_reward: float) -> None:
        """Close an episode; `added_reward` is what came without an answer of the policy."""
        assert episode.ending is not None
        if self._fork_after:
            self._end_lead(episode, None)
            return
        self._leave(episode)
        verdict = info.get("verdict")
        self._outcomes[episode.place] = PlayedEpisode(
            rollouts=tuple(episode.rollouts),
            reward=sum(rollout.reward for rollout in episode.rollouts) + added_reward,
            resolved=verdict is not None and verdict.status == "resolved",
            ending=episode.ending,
            num_steps=episode.num_steps,
            num_lost_tokens=episode.num_lost_tokens,
        )
        self._on_episode_done()

    def _fail(self, episode: EpisodeInPlay, error: Exception, *, retry: bool) -> None:
        """Begin an episode again from nothing, or give it up as invalid.

        Raises:
            EngineUnavailableError: no other episode could go on either.
            SrlSweError: what is wrong is no infrastructure, and would be wrong again.
        """
        self._leave(episode)
        instance_id = episode.job.start.instance_id
        if isinstance(error, EngineUnavailableError):
            raise EngineUnavailableError(
                f"the container engine stopped answering: {error}. Start it and run the same command again: the run "
                "goes on from its last checkpoint"
            ) from error
        infrastructure = isinstance(error, (ContainerError, WorkTimeoutError))
        if isinstance(error, SrlSweError) and not infrastructure:
            raise error
        reason = f"{type(error).__name__}: {error}"
        trace = None if infrastructure else error
        logger.warning("an episode on %s failed, attempt %d: %s", instance_id, episode.attempt, reason, exc_info=trace)
        lost = episode.num_lost_tokens + episode.num_completion_tokens
        if retry and infrastructure and episode.attempt < self._limits.infrastructure_attempts:
            again = begin(episode.place, episode.job)
            again.attempt, again.num_lost_tokens = episode.attempt + 1, lost
            self._waiting.append(again)
            return
        if self._fork_after:
            lead = Lead(forked=False, num_tokens=0, num_lost_tokens=lost)
            self._outcomes[episode.place] = PlayedLead(lead=lead, fork=None)
            return
        self._outcomes[episode.place] = InvalidEpisode(reason=f"{instance_id}: {reason}", num_lost_tokens=lost)
        self._on_episode_done()

    def _leave(self, episode: EpisodeInPlay) -> None:
        self._active = [other for other in self._active if other is not episode]
        self._open_ones = [other for other in self._open_ones if other is not episode]
        if episode.environment is None:
            return
        try:
            episode.environment.close()
        except ContainerError as error:
            instance_id = episode.job.start.instance_id
            logger.warning("%s: its container could not be removed: %s", instance_id, error)
