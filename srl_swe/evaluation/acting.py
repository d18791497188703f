"""What an agent gets to act on one instance: commands in the container, files, and limits that hold.

Whatever class acts, its episode is recorded here and ends here. Left out: opening containers and playing many
episodes (`independent`), the agents themselves.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol, get_args

from srl_swe.environments.recording import ExitStatus
from srl_swe.environments.swe_env import SUBMIT
from srl_swe.errors import ContainerError, EpisodeOverError
from srl_swe.evaluation.agent_config import AgentConfig
from srl_swe.evaluation.episode_environments import EpisodeEnvironment, Finished
from srl_swe.evaluation.episodes import Episode
from srl_swe.evaluation.spending import EpisodeBudget
from srl_swe.pool import WorkTimeoutError
from srl_swe.prompts import answer_malformed
from srl_swe.types import HistoryPair, Message, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandOutcome:
    """What a command did."""

    observation: str
    """Its merged output with the middle left out where it is long, and a last line where it failed."""
    exit_code: int | None
    """None = ended at its time limit."""


class InstanceAgent(Protocol):
    """Acts on one instance. Made anew for each."""

    def act(self, environment: "ActingEnvironment") -> str | None:
        """Repair the repository in the environment.

        What the work tree differs in when this returns is the patch; a string that is returned is the patch instead.
        An exception ends the episode as the agent's own error, and the work tree as it stands is the patch.
        """


class ActingEnvironment:
    """An instance in a container of its own, with what may be known of it. Serves one thread at a time."""

    def __init__(
        self,
        episode: Episode,
        environment: EpisodeEnvironment,
        config: AgentConfig,
        budget: EpisodeBudget,
        *,
        say: Callable[[str], None] = lambda stage: None,
    ) -> None:
        """The environment must have been started; `say` is told what is being done."""
        self._episode = episode
        self._environment = environment
        self._config = config
        self._say = say
        self._busy = threading.Lock()
        self._over: EpisodeOverError | None = None
        self._final = Finished(patch="", problem="")
        """What the episode leaves where the environment itself ended it."""
        self.budget = budget
        """What the episode's calls of a model may use; `ChatModel.complete` takes it."""
        self.failure: Exception | None = None
        """The failure of the infrastructure that ended the episode; None = there was none."""
        self.first_prompt: list[Message] = []
        """What the episode's file shows as its first prompt; an agent may set it."""

    @property
    def instance_id(self) -> str:
        """The instance's id."""
        return self._episode.instance.instance_id

    @property
    def repo(self) -> str:
        """The repository, as owner/name."""
        return self._episode.instance.repo

    @property
    def problem_statement(self) -> str:
        """The issue to resolve."""
        return self._episode.instance.problem_statement

    @property
    def workdir(self) -> str:
        """The work tree's folder in the container."""
        return self._episode.instance.environment.workdir

    @property
    def history(self) -> Sequence[HistoryPair]:
        """Commands with their observations so far, malformed answers included."""
        return self._episode.history

    @property
    def num_malformed_in_a_row(self) -> int:
        """Malformed answers since the last command."""
        return self._episode.num_malformed_in_a_row

    @property
    def num_steps(self) -> int:
        """Commands that ran."""
        return sum(1 for turn in self._episode.turns if turn.step)

    @property
    def left_s(self) -> float:
        """Seconds until the episode's time limit."""
        return self._episode.started + self._config.episode_limit_s - time.monotonic()

    def require_open(self) -> None:
        """Check the limits; worth calling before something slow or dear.

        Raises:
            EpisodeOverError: the episode has ended, or ends now at a limit.
        """
        if self._over is not None:
            raise self._over
        if self.num_steps >= self._config.max_steps:
            self.end("step_limit", f"{self._config.max_steps} commands have run")
        if self.left_s <= 0:
            self.end("time_limit", f"{self._config.episode_limit_s:g} s are over")

    def run(self, command: str, *, thought: str = "", completion: str | None = None) -> CommandOutcome:
        """Run a shell command in the work tree; `submit` ends the episode.

        `thought` and `completion` (the model's whole answer) go into the episode's file.

        Raises:
            EpisodeOverError: the episode has ended, or ends with this command.
            ContainerError: the infrastructure failed; the episode is played again, whatever the agent does.
        """
        with self._busy:
            self.require_open()
            if command.strip() == SUBMIT:
                step = Step(thought=thought, action=SUBMIT, observation="", exit_code=None)
                self._episode.add_step(completion or "", step)
                self.end("submitted", "the episode was submitted")
            self._say(f"step {self.num_steps}: running")
            # The environment itself would end the episode at the limit, with the patch as it is then.
            try:
                ran = self._environment.run(command)
            except ContainerError as error:
                self.failure = error
                self._over = EpisodeOverError("container_error", f"the infrastructure failed: {error}")
                raise
            step = Step(thought=thought, action=command, observation=ran.observation, exit_code=ran.exit_code)
            self._episode.add_step(completion or "", step)
            self._say(f"step {self.num_steps}: deciding")
            if ran.finished:
                self._final = ran.finished
                self.end("time_limit", f"{self._config.episode_limit_s:g} s are over")
            return CommandOutcome(observation=ran.observation, exit_code=ran.exit_code)

    def read_file(self, path: str, *, max_bytes: int = 4 << 20) -> bytes:
        """Return the content of a file, whose path is relative to the work tree or absolute. Counts as no step.

        Raises:
            EpisodeOverError: the episode has ended.
            FileNotFoundError, IsADirectoryError: there is no such file.
            DataError: it is longer than `max_bytes`.
            ContainerError: the infrastructure failed.
        """
        with self._busy:
            self.require_open()
            try:
                return self._environment.read_file(str(PurePosixPath(self.workdir) / path), max_bytes=max_bytes)
            except ContainerError as error:
                self.failure = error
                raise

    def list_files(self) -> list[str]:
        """Return the paths of the files that git knows in the work tree, relative to it. Counts as no step.

        Raises:
            EpisodeOverError: the episode has ended.
            DataError: git cannot list them, or their names are longer than 64 MiB.
            ContainerError: the infrastructure failed.
        """
        with self._busy:
            self.require_open()
            try:
                return self._environment.list_files()
            except ContainerError as error:
                self.failure = error
                raise

    def refuse(self, completion: str, reason: str, *, cut_off: bool = False) -> None:
        """Record an answer of a model that holds no command, and why; it is no step."""
        if self._over is not None:
            raise self._over
        self._episode.add_malformed(completion, answer_malformed(reason, cut_off=cut_off))

    def end(self, exit_status: ExitStatus, why: str) -> None:
        """End the episode.

        Raises:
            EpisodeOverError: always.
        """
        assert exit_status in get_args(ExitStatus)
        self._over = self._over or EpisodeOverError(exit_status, f"{self.instance_id}: {why}")
        raise self._over

    def finish(self) -> tuple[str, str]:
        """End the episode for whatever agent still holds it; return the work tree's patch and why there is none.

        Raises:
            ContainerError: the infrastructure failed.
            WorkTimeoutError: a command that was running does not end.
        """
        self._over = self._over or EpisodeOverError("closed", f"{self.instance_id}: the episode is over")
        self.budget.close()
        limit_s = 10 * self._config.command_timeout_s + 120
        if not self._busy.acquire(timeout=limit_s):
            raise WorkTimeoutError(f"{self.instance_id}: a command did not end within {limit_s:.0f} s")
        try:
            if self.failure is not None:
                raise self.failure
            self._final = self._environment.finish() or self._final
            return self._final.patch, self._final.problem
        finally:
            self._busy.release()
