"""The container of one episode as acting needs it, wherever its engine is.

Left out: the limits of an episode and its record (`acting`), which engine it is at (`acting_places`), how another
machine is reached (`ray_nodes`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from srl_swe.environments.swe_env import SWEEnv
from srl_swe.errors import DataError
from srl_swe.types import Instance

if TYPE_CHECKING:
    from srl_swe.environments.container import Container
    from srl_swe.environments.engine import Engine

_MAX_LISTING_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeLimits:
    """What the environment itself ends."""

    command_timeout_s: float
    episode_limit_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What an episode leaves."""

    patch: str
    problem: str
    """Why there is no patch; "" = no problem."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a command did."""

    observation: str
    exit_code: int | None
    """None = ended at its time limit."""
    finished: Finished | None
    """Where the episode's time limit was reached, which ends it."""


class EpisodeEnvironment(Protocol):
    """Made before its container is started. Serves one thread at a time; closed by any.

    Every method but `close` raises ContainerError where the infrastructure fails, and `close` where the container
    cannot be removed now.
    """

    def start(self) -> None:
        """Start the container, its image's build or pull included; the episode's time begins."""

    def run(self, command: str) -> Ran:
        """Run a shell command."""

    def read_file(self, path: str, *, max_bytes: int) -> bytes:
        """Return the content of a file at an absolute path.

        Raises:
            FileNotFoundError, IsADirectoryError: there is no such file.
            DataError: it is longer than `max_bytes`.
        """

    def list_files(self) -> list[str]:
        """Return the paths of the files that git knows in the work tree, relative to it.

        Raises:
            DataError: git cannot list them, or their names are longer than 64 MiB.
        """

    def finish(self) -> Finished | None:
        """End the episode; None where it has ended by itself."""

    def close(self) -> None:
        """Remove the container; idempotent."""


class EngineEnvironment:
    """An episode at an engine of which this process is the client."""

    def __init__(self, instance: Instance, limits: TimeLimits, engine: "Engine | None" = None) -> None:
        """Without an engine, one is connected to for this episode."""
        self._instance = instance
        self._environment = SWEEnv(
            instances=[instance],
            grade=False,
            # Steps are counted by what the agent acts on.
            max_steps=None,
            num_warm=0,
            command_timeout_s=limits.command_timeout_s,
            episode_timeout_s=limits.episode_limit_s,
            engine=engine,
        )

    def start(self) -> None:
        """See `EpisodeEnvironment`."""
        self._environment.reset(options={"instance_id": self._instance.instance_id})

    def run(self, command: str) -> Ran:
        """See `EpisodeEnvironment`."""
        observation, _, _, truncated, info = self._environment.step(command)
        code = None if info["exit_code"] is None else int(info["exit_code"])
        finished = Finished(patch=info["patch"], problem=info["patch_problem"]) if truncated else None
        return Ran(observation=observation, exit_code=code, finished=finished)

    def read_file(self, path: str, *, max_bytes: int) -> bytes:
        """See `EpisodeEnvironment`."""
        return self._container().read_file(path, max_bytes=max_bytes)

    def list_files(self) -> list[str]:
        """See `EpisodeEnvironment`."""
        workdir = self._instance.environment.workdir
        command = ["git", "-c", f"safe.directory={workdir}", "-c", "core.quotePath=false", "ls-files", "-z"]
        listed = self._container().execute(command, workdir=workdir, max_output_bytes=_MAX_LISTING_BYTES)
        if listed.exit_code != 0 or listed.omitted_bytes:
            # The agent may have broken the repository.
            name = self._instance.instance_id
            raise DataError(f"{name}: the files of {workdir} cannot be listed: {listed.output[-500:]}")
        return [path for path in listed.output.split("\0") if path]

    def finish(self) -> Finished | None:
        """See `EpisodeEnvironment`."""
        if self._environment.container is None:
            return None
        info = self._environment.finish()
        return Finished(patch=info["patch"], problem=info["patch_problem"])

    def close(self) -> None:
        """See `EpisodeEnvironment`."""
        self._environment.close()

    def _container(self) -> "Container":
        container = self._environment.container
        assert container is not None, "an episode that is not over has a container"
        return container
