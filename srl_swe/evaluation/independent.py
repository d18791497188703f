"""Episodes that go on independently of each other, a thread and a container each, whatever agent plays them.

A slow command or a slow answer holds no other episode. Left out: who answers (`batching`, `endpoint`), what an agent
sees (`acting`), verdicts (`scheduler`).
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from srl_swe.environments.recording import ExitStatus
from srl_swe.errors import (
    ContainerError,
    EndpointError,
    EndpointRefusedError,
    EngineUnavailableError,
    EpisodeOverError,
    SamplerError,
    SpendingLimitError,
    SrlSweError,
)
from srl_swe.evaluation.acting import ActingEnvironment, InstanceAgent
from srl_swe.evaluation.acting_places import ActingPlaces
from srl_swe.evaluation.agent_config import AgentConfig, AgentOutcome
from srl_swe.evaluation.episode_environments import EpisodeEnvironment, TimeLimits
from srl_swe.evaluation.episodes import Episode, EpisodeResult, write_episode
from srl_swe.evaluation.predictions import earlier_predictions
from srl_swe.evaluation.progress import RunningTable
from srl_swe.evaluation.spending import EpisodeBudget, SpendingAccount
from srl_swe.files import sole_writer
from srl_swe.pool import WorkPool, WorkTimeoutError
from srl_swe.prompts import ISSUE_TEMPLATE, render
from srl_swe.types import Instance, Message

if TYPE_CHECKING:
    from srl_swe.evaluation.fleet import Fleet
    from srl_swe.evaluation.grading_ahead import GradingAhead

_STOP_LIMIT_S = 20.0
_TIME_LIMIT = EpisodeOverError("time_limit", "the agent did not return within the episode's time limit")
_FAILURES = (EndpointError, EndpointRefusedError, SamplerError, SpendingLimitError)
"""What says nothing of the agent; failures of containers are known to the environment, whatever the agent raises."""
_GRACE_S = 2.0
"""The environment ends a command at the time limit; this much longer the agent may take to return then."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Played:
    """An episode that ended, not yet on disk."""

    result: EpisodeResult
    prompt: list[Message]


class IndependentEpisodes:
    """Plays episodes with an agent each."""

    def __init__(
        self,
        make_agent: Callable[[], InstanceAgent],
        *,
        model_name: str,
        config: AgentConfig,
        account: SpendingAccount,
        max_episode_cost: float | None = None,
        described: Mapping[str, Any] | None = None,
        fleet: "Fleet | None" = None,
    ) -> None:
        """`model_name` goes into the predictions, `described` into the episodes' files.

        Episodes are spread over the places of a `fleet`; without one they are at the engine of this machine.
        """
        self._make_agent = make_agent
        self._model_name = model_name
        self._config = config
        self._account = account
        self._max_episode_cost = max_episode_cost
        self._described = dict(described or {})
        self._places = ActingPlaces(fleet, max_parallel=config.max_parallel)
        self._stopping = False
        self._admitted: set[str] = set()
        """Ids of instances whose images are held for their episodes."""
        self._no_money: SpendingLimitError | None = None
        self._open: set[ActingEnvironment] = set()
        self._environments: set[EpisodeEnvironment] = set()

    def run(
        self,
        instances: Sequence[Instance],
        output: Path,
        *,
        console: Console | None = None,
        ahead: "GradingAhead | None" = None,
    ) -> AgentOutcome:
        """Act on every instance that `output` has no prediction for; each episode is on disk when it ends.

        `ahead` brings the images and grades each prediction as it comes. Instances that money was lacking for have no
        prediction and are not invalid.

        Raises:
            EndpointRefusedError, EngineUnavailableError, SamplerError: no episode can go on; finished ones are kept.
            ConfigError: `output` holds predictions of another model.
        """
        with sole_writer(output):
            earlier = earlier_predictions(output, instances, self._model_name)
            done = {prediction.instance_id for prediction in earlier}
            pending = [instance for instance in instances if instance.instance_id not in done]
            shown = console or Console(stderr=True)
            table = RunningTable("acting", num_total=len(instances), num_earlier=len(done), console=shown)
            results: list[EpisodeResult] = []
            invalid: dict[str, str] = {}
            with table:
                try:
                    self._play_all(pending, output, table, results, invalid, ahead)
                except BaseException:
                    shown.print(
                        f"stopped with {len(done) + len(results)} predictions; run the same command again to go on"
                    )
                    raise
            if self._no_money is not None:
                num_left = len(pending) - len(results) - len(invalid)
                shown.print(f"{num_left} instances have no prediction: {self._no_money}", markup=False)
        made = tuple(result.prediction for result in results)
        return AgentOutcome(predictions=earlier + made, episodes=tuple(results), invalid=invalid)

    def _play_all(
        self,
        instances: Sequence[Instance],
        output: Path,
        table: RunningTable,
        results: list[EpisodeResult],
        invalid: dict[str, str],
        ahead: "GradingAhead | None",
    ) -> None:
        self._stopping, self._no_money = False, None
        self._admitted.clear()
        self._places.prepare(instances)
        pool = WorkPool(self._places.num_at_once)
        try:
            for instance, outcome in pool.run(
                ahead.ordered(instances) if ahead else instances,
                lambda instance: self._play(instance, table, ahead),
                limit_s=lambda _: self._limit_s(),
                may_start=lambda instance: self._admit(instance, ahead),
            ):
                name = instance.instance_id
                if isinstance(outcome, _Played):
                    self._write(output, instance, outcome)
                    if ahead:
                        ahead.predicted(instance, outcome.result.prediction)
                    results.append(outcome.result)
                    num_steps = len(outcome.result.trajectory.steps)
                    table.finish(name, outcome.result.exit_status, f"{num_steps} steps")
                elif isinstance(outcome, SpendingLimitError):
                    self._no_money = outcome
                    table.finish(name, "no money", "")
                elif isinstance(outcome, EngineUnavailableError):
                    raise EngineUnavailableError(
                        f"the container engine stopped answering: {outcome}. {len(results)} episodes of this run are "
                        f"in {output}; start the engine and run the same command again to go on"
                    ) from outcome
                elif isinstance(outcome, (EndpointRefusedError, SamplerError)):
                    raise outcome
                else:
                    if ahead is not None and isinstance(outcome, WorkTimeoutError):
                        ahead.give_up(instance)
                    reason = f"{type(outcome).__name__}: {outcome}"
                    # Our own errors say all that is to be said; what we did not expect needs its trace.
                    trace = None if isinstance(outcome, SrlSweError) else outcome
                    logger.warning("%s has no prediction: %s", name, reason, exc_info=trace)
                    invalid[name] = reason
                    table.finish(name, "invalid", reason)
        except BaseException:
            if ahead is not None:
                ahead.stop()
            raise
        finally:
            self._stopping = True
            for acting in list(self._open):
                acting.budget.close()
            still_open = list(self._environments)
            for _ in WorkPool(len(still_open) or 1).run(still_open, _close, limit_s=lambda _: _STOP_LIMIT_S):
                pass
            pool.join(_STOP_LIMIT_S)

    def _limit_s(self) -> float:
        """Return more than a whole episode takes with all its attempts, so that only a hanging one meets it."""
        once = self._config.start_limit_s + self._config.episode_limit_s + 20 * self._config.command_timeout_s + 600
        return self._config.infrastructure_attempts * once

    def _admit(self, instance: Instance, ahead: "GradingAhead | None") -> bool:
        if ahead is None or self._no_money is not None:
            return True
        if is_admitted := ahead.admit(instance):
            self._admitted.add(instance.instance_id)
        return is_admitted

    def _play(self, instance: Instance, table: RunningTable, ahead: "GradingAhead | None") -> _Played:
        is_admitted = ahead is not None and instance.instance_id in self._admitted
        if self._no_money is not None:
            if ahead is not None and is_admitted:
                ahead.release(instance, predicted=False)
            raise self._no_money  # before an image comes for nothing
        with ahead.played(instance) if ahead is not None and is_admitted else contextlib.nullcontext():
            return self._play_here(instance, table)

    def _play_here(self, instance: Instance, table: RunningTable) -> _Played:
        if self._no_money is not None:
            raise self._no_money
        retrying = Retrying(
            retry=retry_if_exception_type(ContainerError) & retry_if_not_exception_type(EngineUnavailableError),
            stop=stop_after_attempt(self._config.infrastructure_attempts),
            wait=wait_exponential_jitter(initial=1.0, max=20.0),
            reraise=True,
        )
        return retrying(self._play_once, instance, table)

    def _play_once(self, instance: Instance, table: RunningTable) -> _Played:
        table.stage(instance.instance_id, "starting")
        limits = TimeLimits(
            command_timeout_s=self._config.command_timeout_s, episode_limit_s=self._config.episode_limit_s
        )
        with self._places.opened(instance, limits) as environment:
            self._environments.add(environment)
            try:
                self._require_going(instance)
                self._start(instance, environment)
                self._require_going(instance)
                table.stage(instance.instance_id, "acting")
                return self._act(instance, environment, lambda stage: table.stage(instance.instance_id, stage))
            finally:
                self._environments.discard(environment)
                _close(environment)

    def _require_going(self, instance: Instance) -> None:
        if self._stopping:
            raise ContainerError(f"{instance.instance_id}: the evaluation is being stopped")

    def _start(self, instance: Instance, environment: EpisodeEnvironment) -> None:
        """Start the episode's container. Raises ContainerError also where that takes longer than its limit."""
        ended: list[BaseException | None] = []
        is_late = threading.Event()

        def reset() -> None:
            try:
                environment.start()
            except BaseException as error:  # noqa: BLE001 - raised by who waits
                ended.append(error)
            else:
                ended.append(None)
            if is_late.is_set():
                _close(environment)

        thread = threading.Thread(target=reset, name=f"start {instance.instance_id}", daemon=True)
        thread.start()
        thread.join(self._config.start_limit_s)
        if not ended:
            is_late.set()
            limit = f"{self._config.start_limit_s:g} s"
            raise ContainerError(f"{instance.instance_id}: the environment did not start within {limit}")
        if ended[0] is not None:
            raise ended[0]

    def _act(self, instance: Instance, environment: EpisodeEnvironment, say: Callable[[str], None]) -> _Played:
        # Starts the clock.
        episode = Episode(instance=instance)
        budget = EpisodeBudget(
            self._account, max_tokens=self._config.max_episode_tokens, max_cost=self._max_episode_cost
        )
        acting = ActingEnvironment(episode, environment, self._config, budget, say=say)
        returned: list[object] = []
        self._open.add(acting)
        try:
            ended = self._call(acting, returned)
            patch, problem = acting.finish()
        finally:
            self._open.discard(acting)
            budget.close()
        if isinstance(ended, _FAILURES):
            raise ended
        error = ""
        exit_status: ExitStatus = "submitted"
        if isinstance(ended, EpisodeOverError):
            exit_status = cast(ExitStatus, ended.exit_status)
        elif ended is not None:
            exit_status, error = "agent_error", f"{type(ended).__name__}: {ended}"
        elif isinstance(returned[0], str):
            patch, problem = returned[0], ""
        elif returned[0] is not None:
            exit_status = "agent_error"
            error = f"act() returned {type(returned[0]).__name__}; expected a patch (str) or None"
        if exit_status == "agent_error":
            logger.warning("%s: the agent failed: %s", instance.instance_id, error)
        used = budget.used
        episode.num_prompt_tokens, episode.num_completion_tokens = used.prompt_tokens, used.completion_tokens
        episode.cost = used.cost
        result = episode.finish(
            model=self._model_name, patch=patch, patch_problem=problem, exit_status=exit_status, error=error
        )
        return _Played(result=result, prompt=acting.first_prompt or render(instance.problem_statement, ()))

    def _call(self, acting: ActingEnvironment, returned: list[object]) -> BaseException | None:
        """Let the agent act, at most until the episode's time limit; return what ended it, None where it returned."""
        raised: list[BaseException] = []

        def act() -> None:
            try:
                returned.append(self._make_agent().act(acting))
            except BaseException as error:  # noqa: BLE001 - the border where an episode becomes data
                raised.append(error)

        # An agent that hangs is left behind; whatever it still tries in the environment is refused.
        thread = threading.Thread(target=act, name=f"agent {acting.instance_id}", daemon=True)
        thread.start()
        thread.join(max(0.0, acting.left_s) + _GRACE_S)
        if raised:
            return raised[0]
        if returned:
            return None
        # Time that went into waiting for an answer which does not come says nothing of the agent.
        return EndpointError(acting.budget.unanswered) if acting.budget.unanswered else _TIME_LIMIT

    def _write(self, output: Path, instance: Instance, played: _Played) -> None:
        config: dict[str, Any] = {
            "agent": {"instance_template": ISSUE_TEMPLATE, **asdict(self._config), **self._described},
            "model": {"model_name": self._model_name},
            "environment": {"image": instance.environment.image, "cwd": instance.environment.workdir},
        }
        write_episode(output, played.result, prompt=played.prompt, config=config)


def _close(environment: EpisodeEnvironment) -> None:
    try:
        environment.close()
    except ContainerError as error:
        logger.warning("a container could not be removed, `srl-swe gc` does it later: %s", error)
