"""The agent: a model that acts on many instances at once, in rounds, until every episode has ended.

A round samples one completion for every running episode in a single batch, then runs the commands side by
side, one environment each. Prompts are left to `srl_swe.prompts`, files to `episodes`, verdicts to `scheduler`.
"""

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from srl_swe.environments.recording import ExitStatus
from srl_swe.environments.swe_env import SWEEnv
from srl_swe.errors import ConfigError, ContainerError, EngineUnavailableError, MalformedCompletionError
from srl_swe.evaluation.episodes import Episode, EpisodeResult, write_episode
from srl_swe.evaluation.predictions import earlier_predictions
from srl_swe.evaluation.progress import RunningTable
from srl_swe.files import sole_writer
from srl_swe.pool import WorkPool, WorkTimeoutError
from srl_swe.prompts import ISSUE_TEMPLATE, PromptLimits, answer_malformed, parse, render
from srl_swe.types import Completion, Instance, Message, Prediction, Step

if TYPE_CHECKING:
    from srl_swe.evaluation.grading_ahead import GradingAhead
    from srl_swe.training.samplers import SampledCompletion, Sampler

SUBMIT = "submit"
_STOP_LIMIT_S = 20.0
_ADMISSION_TICK_S = 0.2

logger = logging.getLogger(__name__)


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
    """Wall-clock limit of an episode, from its start on; sampling and waiting for the others of a round count."""
    start_limit_s: float = 3600.0
    """Longest that starting an environment may take, its image's build or pull included."""
    infrastructure_attempts: int = 3
    """How often an episode is begun before infrastructure failures make it invalid."""
    max_parallel: int = 4
    """Episodes open at once: the batch of a round and the number of running containers."""

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


class Agent:
    """A model with the way it is prompted."""

    def __init__(
        self,
        sampler: "Sampler",
        encode_prompt: Callable[[list[Message]], list[int]],
        *,
        max_context: int,
        model_name: str,
        config: AgentConfig,
        limits: PromptLimits = PromptLimits(),
    ) -> None:
        """`max_context` in tokens, prompt and completion together; `model_name` goes into the predictions.

        `limits` say how much of a context the prompts show: the same as in training.
        """
        self._sampler = sampler
        self._encode_prompt = encode_prompt
        self._max_prompt_tokens = max_context - config.max_completion_tokens
        self._model_name = model_name
        self._config = config
        self._limits = limits
        if self._max_prompt_tokens < 1:
            raise ConfigError(
                f"max_completion_tokens = {config.max_completion_tokens} leaves no room for a prompt in the model's "
                f"context of {max_context} tokens; lower it"
            )

    def run(
        self,
        instances: Sequence[Instance],
        output: Path,
        *,
        console: Console | None = None,
        ahead: "GradingAhead | None" = None,
    ) -> AgentOutcome:
        """Act on every instance that `output` has no prediction for; each episode is on disk when it ends.

        `ahead` brings the images and grades each prediction as it comes.

        Raises:
            SamplerError: the sampling engine failed; finished episodes are kept.
            ConfigError: `output` holds predictions of another model.
        """
        with sole_writer(output):
            earlier = earlier_predictions(output, instances, self._model_name)
            done = {prediction.instance_id for prediction in earlier}
            pending = [instance for instance in instances if instance.instance_id not in done]
            shown = console or Console(stderr=True)
            table = RunningTable("acting", num_total=len(instances), num_earlier=len(done), console=shown)
            with table:
                rounds = _Rounds(self, self._config, output, table, ahead)
                try:
                    rounds.play(ahead.ordered(pending) if ahead else pending)
                except BaseException:
                    num_done = len(done) + len(rounds.results)
                    shown.print(f"stopped with {num_done} predictions; run the same command again to go on")
                    raise
        made = tuple(result.prediction for result in rounds.results)
        return AgentOutcome(predictions=earlier + made, episodes=tuple(rounds.results), invalid=rounds.invalid)

    def prompt_for(self, episode: Episode) -> list[int] | None:
        """Return the next prompt of an episode; None when it does not fit into the context."""
        messages = render(episode.instance.problem_statement, episode.history, self._limits)
        prompt = self._encode_prompt(messages)
        return prompt if len(prompt) <= self._max_prompt_tokens else None

    def sample(self, prompts: Sequence[Sequence[int]], *, round_index: int) -> "list[SampledCompletion]":
        """Sample one completion per prompt."""
        groups = self._sampler.sample(
            prompts,
            num_rollouts=1,
            max_completion_tokens=self._config.max_completion_tokens,
            temperature=self._config.temperature,
            seed=self._config.seed + round_index,
        )
        return [group[0] for group in groups]

    def write(self, output: Path, episode: Episode, answer: "_Answer") -> EpisodeResult:
        """Finish an episode and put it on disk."""
        assert answer.ended is not None
        result = episode.finish(
            model=self._model_name,
            patch=answer.patch,
            patch_problem=answer.patch_problem,
            exit_status=answer.ended,
        )
        config: dict[str, Any] = {
            # The place of the issue in the prompt, in mini-swe-agent's words.
            "agent": {"instance_template": ISSUE_TEMPLATE, **asdict(self._config), "limits": asdict(self._limits)},
            "model": {"model_name": self._model_name},
            "environment": {"image": episode.instance.environment.image, "cwd": episode.instance.environment.workdir},
        }
        prompt = render(episode.instance.problem_statement, (), self._limits)
        write_episode(output, result, prompt=prompt, config=config)
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What an environment answered to a command."""

    observation: str
    exit_code: int | None
    ended: ExitStatus | None
    patch: str
    patch_problem: str


class _Rounds:
    """The rounds of one call of `Agent.run`."""

    def __init__(
        self, agent: Agent, config: AgentConfig, output: Path, table: RunningTable, ahead: "GradingAhead | None"
    ) -> None:
        self._agent = agent
        self._config = config
        self._output = output
        self._table = table
        self._ahead = ahead
        self._pool = WorkPool(config.max_parallel)
        self._environments: dict[str, SWEEnv] = {}
        self._waiting: deque[Episode] = deque()
        self._active: list[Episode] = []
        self.results: list[EpisodeResult] = []
        self.invalid: dict[str, str] = {}

    def play(self, instances: Sequence[Instance]) -> None:
        """Run all episodes to their end; no environment stays open whatever happens."""
        self._waiting.extend(Episode(instance=instance, attempt=1) for instance in instances)
        try:
            for round_index in itertools.count():
                self._admit()
                if not self._active:
                    return
                self._open([episode for episode in self._active if not episode.opened])
                self._act(self._decide(round_index))
        except BaseException:
            if self._ahead is not None:
                self._ahead.stop()
            raise
        finally:
            for episode in list(self._active):
                self._close(episode)
            # Environments still being started are closed by their own threads, which see that they are late.
            self._pool.join(_STOP_LIMIT_S)

    def _admit(self) -> None:
        """Let waiting episodes in, as many as there are places and room for images; at least one, if any is left."""
        while self._waiting and len(self._active) < self._config.max_parallel:
            if self._ahead is None or self._ahead.admit(self._waiting[0].instance):
                self._active.append(self._waiting.popleft())
            elif self._active:
                return
            else:
                time.sleep(_ADMISSION_TICK_S)  # the grading behind it makes room

    def _open(self, episodes: Sequence[Episode]) -> None:
        for episode in episodes:
            self._table.stage(episode.instance.instance_id, "starting")
        limit_s = self._config.start_limit_s
        for episode, outcome in self._pool.run(episodes, self._start, limit_s=lambda _: limit_s):
            if isinstance(outcome, Exception):
                self._fail(episode, outcome, retry=False)
            else:
                self._environments[episode.instance.instance_id] = outcome
                episode.opened = True
                episode.started = time.monotonic()

    def _start(self, episode: Episode) -> SWEEnv:
        if self._ahead:
            self._ahead.fetch(episode.instance)
        retrying = Retrying(
            retry=retry_if_exception_type(ContainerError),
            stop=stop_after_attempt(self._config.infrastructure_attempts + 1 - episode.attempt),
            wait=wait_exponential_jitter(initial=1.0, max=20.0),
            reraise=True,
        )
        return retrying(self._start_once, episode)

    def _start_once(self, episode: Episode) -> SWEEnv:
        environment = SWEEnv(
            instances=[episode.instance],
            grade=False,
            # The agent counts the steps itself, so the environment cuts an episode short only for its time.
            max_steps=None,
            # An instance is played once: nothing would use what is kept or opened ahead.
            num_warm=0,
            command_timeout_s=self._config.command_timeout_s,
            episode_timeout_s=self._config.episode_limit_s,
        )
        try:
            environment.reset(options={"instance_id": episode.instance.instance_id})
            if episode not in self._active:
                raise ContainerError(f"{episode.instance.instance_id}: the start came after its limit")
        except BaseException:
            environment.close()
            raise
        return environment

    def _decide(self, round_index: int) -> list[tuple[Episode, str, Completion]]:
        """Return the commands of this round with the completions they came from; malformed ones are answered here."""
        commands: list[tuple[Episode, str, Completion]] = []
        prompts: list[tuple[Episode, list[int]]] = []
        for episode in self._active:
            episode.ending = self._limit_reached(episode)
            prompt = None if episode.ending else self._agent.prompt_for(episode)
            if prompt is not None and self._too_many_tokens(episode, len(prompt)):
                episode.ending = "token_limit"
            elif prompt is not None:
                self._table.stage(episode.instance.instance_id, f"step {self._num_steps(episode)}: sampling")
                prompts.append((episode, prompt))
                continue
            episode.ending = episode.ending or "context"
            commands.append((episode, "", Completion(thought="", action=SUBMIT)))
        samples = self._agent.sample([prompt for _, prompt in prompts], round_index=round_index) if prompts else []
        for (episode, prompt), sample in zip(prompts, samples, strict=True):
            episode.num_prompt_tokens += len(prompt)
            episode.num_completion_tokens += len(sample.ids)
            try:
                commands.append((episode, sample.text, parse(sample.text)))
            except MalformedCompletionError as error:
                shown = answer_malformed(str(error), cut_off=sample.stop_reason == "length")
                episode.add_malformed(sample.text, shown)
        return commands

    def _limit_reached(self, episode: Episode) -> ExitStatus | None:
        if episode.num_malformed_in_a_row >= self._config.max_malformed:
            return "malformed"
        if self._num_steps(episode) >= self._config.max_steps:
            return "step_limit"
        if time.monotonic() - episode.started > self._config.episode_limit_s:
            return "time_limit"
        return None

    def _too_many_tokens(self, episode: Episode, num_prompt_tokens: int) -> bool:
        used = episode.num_prompt_tokens + episode.num_completion_tokens
        most = used + num_prompt_tokens + self._config.max_completion_tokens
        return self._config.max_episode_tokens is not None and most > self._config.max_episode_tokens

    def _act(self, commands: Sequence[tuple[Episode, str, Completion]]) -> None:
        for episode, _, _ in commands:
            self._table.stage(episode.instance.instance_id, f"step {self._num_steps(episode)}: running")
        # Ten times the command's limit leaves room for the environment's own recovery after it.
        limit_s = 10 * self._config.command_timeout_s + 120
        for (episode, text, completion), outcome in self._pool.run(commands, self._step, limit_s=lambda _: limit_s):
            if isinstance(outcome, Exception):
                self._fail(episode, outcome, retry=True)
                continue
            if not episode.ending:
                step = Step(
                    thought=completion.thought,
                    action=completion.action,
                    observation=outcome.observation,
                    exit_code=outcome.exit_code,
                )
                episode.add_step(text, step)
            if outcome.ended:
                self._finish(episode, outcome)

    def _step(self, command: tuple[Episode, str, Completion]) -> _Answer:
        episode, _, completion = command
        environment = self._environments[episode.instance.instance_id]
        observation, _, terminated, truncated, info = environment.step(completion.action)
        ended: ExitStatus | None = None
        if terminated or truncated:
            ended = episode.ending or ("submitted" if terminated else "time_limit")
        return _Answer(
            observation=observation,
            # A submission has no exit code, as in published trajectories.
            exit_code=None if terminated else info["exit_code"],
            ended=ended,
            patch=info["patch"] if ended else "",
            patch_problem=info["patch_problem"] if ended else "",
        )

    def _finish(self, episode: Episode, answer: _Answer) -> None:
        self._close(episode)
        result = self._agent.write(self._output, episode, answer)
        self.results.append(result)
        if self._ahead:
            self._ahead.release(episode.instance, predicted=True)
            self._ahead.predicted(episode.instance, result.prediction)
        self._table.finish(episode.instance.instance_id, result.exit_status, f"{self._num_steps(episode)} steps")

    def _fail(self, episode: Episode, error: Exception, *, retry: bool) -> None:
        """Begin the episode again in a new container, or give it up as invalid; it never becomes an empty prediction.

        Raises:
            EngineUnavailableError: no other episode could go on either.
        """
        self._close(episode)
        if self._ahead:
            self._ahead.release(episode.instance, predicted=False)
        if isinstance(error, EngineUnavailableError):
            raise EngineUnavailableError(
                f"the container engine stopped answering: {error}. {len(self.results)} episodes of this run are in "
                f"{self._output}; start the engine and run the same command again to go on"
            ) from error
        instance_id = episode.instance.instance_id
        reason = f"{type(error).__name__}: {error}"
        logger.warning("%s, attempt %d: %s", instance_id, episode.attempt, reason, exc_info=error)
        again = retry and isinstance(error, (ContainerError, WorkTimeoutError))
        if again and episode.attempt < self._config.infrastructure_attempts:
            self._waiting.append(Episode(instance=episode.instance, attempt=episode.attempt + 1))
            return
        self.invalid[instance_id] = reason
        self._table.finish(instance_id, "invalid", reason)

    def _close(self, episode: Episode) -> None:
        self._active = [other for other in self._active if other is not episode]
        environment = self._environments.pop(episode.instance.instance_id, None)
        if environment is None:
            return
        try:
            environment.close()
        except ContainerError as error:
            logger.warning("%s: its container could not be removed: %s", episode.instance.instance_id, error)

    @staticmethod
    def _num_steps(episode: Episode) -> int:
        return sum(1 for turn in episode.turns if turn.step)
