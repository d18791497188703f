"""Replays a set: are the expert's observations and patches what the environment gives today?

Many trajectories at once, each in a container of its own, every outcome on disk as it comes, resumable at any moment.
Leaves out one trajectory (`replay_steps`), the file (`replay_outcomes`) and what noise is (`normalise`).
"""

import contextlib
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_attempt

from srl_swe.curation.replay_outcomes import ReplayFile, ShellKind, TrajectoryOutcome
from srl_swe.curation.replay_steps import Capability, replay_trajectory, shell_kind
from srl_swe.environments.leases import LABEL, owner_labels
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.official_rules import require_rules
from srl_swe.errors import ConfigError, ContainerError, DataError, EngineUnavailableError, SrlSweError
from srl_swe.evaluation.results import verdict_key
from srl_swe.evaluation.scheduler import stop_running_safely
from srl_swe.pool import WorkPool
from srl_swe.trajectories.store import PARTS, read_compiled
from srl_swe.types import Instance, Trajectory

if TYPE_CHECKING:
    from srl_swe.environments.engine import Engine

INFRASTRUCTURE = "infrastructure"
_GRACE_S = 300.0
"""Added to the limits of commands and tests: starting, taking the patch, applying it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """How trajectories are replayed."""

    shell: Literal["auto", "persistent", "fresh"] = "auto"
    """Whether directory and variables last from command to command (persistent) or each command is run by a new bash in
    the work tree (fresh); auto: fresh for mini-swe-agent's trajectories, persistent for others."""
    grade: bool = True
    """Have the replayed patch judged by the instance's hidden tests."""
    command_timeout_s: float = 100.0
    """Seconds that a command may take; best a little more than the recorded runs had (90 s is usual), since what a
    command had done when its limit came decides what the next ones find."""
    variables: tuple[str, ...] = ()
    """NAME=VALUE: variables that the recorded commands had and the image has not, for example
    PYTHONDONTWRITEBYTECODE=1."""
    same_paths: tuple[str, ...] = ()
    """RECORDED=HERE: folders that lay elsewhere where the trajectories were recorded, for example
    /opt/site=/opt/venv/lib/python3.11/site-packages."""
    capabilities: tuple[Capability, ...] = ()
    """What root could do with files where the trajectories were recorded, and cannot in our environment, in which
    permission bits bind root too. Docker's default allows all three."""
    max_parallel: int = 2
    """Trajectories replayed at once: the number of running containers."""
    infrastructure_attempts: int = 2
    """How often a trajectory is begun before infrastructure failures make it failed."""
    image_limit_s: float = 3600.0
    """Longest that an instance's image may take to be built or pulled."""

    def __post_init__(self) -> None:
        for name in ("max_parallel", "infrastructure_attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("command_timeout_s", "image_limit_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0 seconds, not {getattr(self, name)}")
        for name, pattern, form in (
            ("variables", r"[A-Za-z_]\w*=[^\0]*", "NAME=VALUE"),
            ("same_paths", r"/[^=\0]+=/[^=\0]+", "RECORDED=HERE, two absolute paths"),
        ):
            for value in getattr(self, name):
                if not re.fullmatch(pattern, value):
                    raise ConfigError(f"{name}: expected {form}, found {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A trajectory to be replayed."""

    trajectory: Trajectory
    instance: Instance
    shell: ShellKind
    key: str
    """Stands for all that decides the outcome, besides the set and whether the patch is judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayResult:
    """What is known of a set after a replay."""

    outcomes: tuple[TrajectoryOutcome, ...]
    """In the order of the set, those of earlier runs included."""
    num_earlier: int
    missing: Mapping[str, int]
    """Instance ids that the file of instances does not have -> number of their trajectories."""


@dataclass(kw_only=True, slots=True)
class Watch:
    """Who is told what happens while a set is replayed; called from the main thread, `stage` from any."""

    begin: Callable[[int, int], object] = lambda num_total, num_earlier: None
    stage: Callable[[str, str], object] = lambda trajectory_id, stage: None
    finish: Callable[[TrajectoryOutcome], object] = lambda outcome: None
    say: Callable[[str], object] = field(default=logger.warning)


def replay_set(
    folder: Path,
    instances: Sequence[Instance],
    config: ReplayConfig,
    *,
    engine: "Engine",
    limits: ContainerLimits | None = None,
    max_trajectories: int | None = None,
    watch: Watch | None = None,
) -> ReplayResult:
    """Replay the trajectories of a set that are on `instances`, and append each outcome to the set's replay.jsonl.

    What an earlier call wrote there for the same set, instance and settings is not replayed again, unless the
    infrastructure had failed. `max_trajectories` takes only the first so many.

    Raises:
        DataError: there is no set, or none of its trajectories is on one of the instances.
        ConfigError: another process replays the set.
        EngineUnavailableError: the engine stopped answering; what was done until then is kept.
        KeyboardInterrupt: after the running containers were removed.
    """
    file = ReplayFile(folder)
    watch = watch or Watch()
    jobs, missing = _jobs(folder, instances, config, max_trajectories)
    if config.grade:
        for instance in {job.instance.instance_id: job.instance for job in jobs}.values():
            require_rules(instance)
    with file.writing():
        found = file.load()
        done = {job.trajectory.trajectory_id: outcome for job in jobs if (outcome := _earlier(job, found, config))}
        num_earlier = len(done)
        pending = [job for job in jobs if job.trajectory.trajectory_id not in done]
        watch.begin(len(jobs), num_earlier)
        run = _Run(config=config, engine=engine, limits=limits or ContainerLimits(), watch=watch)
        with contextlib.closing(run.outcomes(pending)) as outcomes_to_come:
            for job, outcome in outcomes_to_come:
                file.append(job.key, outcome)
                done[outcome.trajectory_id] = outcome
                watch.finish(outcome)
    outcomes = tuple(done[job.trajectory.trajectory_id] for job in jobs)
    return ReplayResult(outcomes=outcomes, num_earlier=num_earlier, missing=missing)


@dataclass(kw_only=True, slots=True)
class _Run:
    """One call of `replay_set`: how its trajectories are replayed."""

    config: ReplayConfig
    engine: "Engine"
    limits: ContainerLimits
    watch: Watch
    num_done: int = 0
    is_stopping: bool = False
    """Set once by the main thread: what fails from then on is not tried again."""

    def outcomes(self, jobs: Sequence[Job]) -> Generator[tuple[Job, TrajectoryOutcome], None, None]:
        """Yield (job, outcome) as they come; whatever ends this early, no container outlives it."""
        pool = WorkPool(self.config.max_parallel)
        others = _own_containers(self.engine)
        try:
            for job, outcome in pool.run(jobs, self._replay, limit_s=self._limit_s):
                result = _as_outcome(job, outcome)
                self.num_done += 1
                yield job, result
                if not result.is_final:
                    self.engine.list_containers(LABEL)  # raises where the engine is gone
        except BaseException as error:
            self.is_stopping = True
            self.watch.say("stopping: removing the running containers")
            stop_running_safely(lambda: self._remove_all_but(others), pool)
            if isinstance(error, ContainerError):
                raise EngineUnavailableError(
                    f"the container engine stopped answering after {self.num_done} trajectories: {error}. Start it, "
                    "then run the same command again to go on"
                ) from error
            raise

    def _replay(self, job: Job) -> TrajectoryOutcome:
        """Replay one trajectory, from its beginning again where the infrastructure fails."""
        trajectory_id = job.trajectory.trajectory_id
        retrying = Retrying(
            stop=stop_after_attempt(self.config.infrastructure_attempts),
            retry=retry_if_exception(lambda error: isinstance(error, ContainerError) and not self.is_stopping),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        return retrying(
            replay_trajectory,
            job.trajectory,
            job.instance,
            self.engine,
            shell=job.shell,
            command_timeout_s=self.config.command_timeout_s,
            variables=self.config.variables,
            same_paths=self.config.same_paths,
            capabilities=self.config.capabilities,
            grade_patch=self.config.grade,
            limits=self.limits,
            say=lambda stage: self.watch.stage(trajectory_id, stage),
        )

    def _limit_s(self, job: Job) -> float:
        commands_s = len(job.trajectory.steps) * (self.config.command_timeout_s + 15)
        attempt_s = commands_s + 2 * job.instance.tests.timeout_s + _GRACE_S
        return self.config.image_limit_s + self.config.infrastructure_attempts * attempt_s

    def _remove_all_but(self, others: set[str]) -> None:
        for container in _own_containers(self.engine) - others:
            self.engine.remove(container)


def _as_outcome(job: Job, outcome: TrajectoryOutcome | Exception) -> TrajectoryOutcome:
    if isinstance(outcome, TrajectoryOutcome):
        return outcome
    # Our own errors say all that is to be said; what we did not expect needs its trace.
    trace = None if isinstance(outcome, SrlSweError) else outcome
    logger.warning("%s was not replayed: %s", job.trajectory.trajectory_id, outcome, exc_info=trace)
    return TrajectoryOutcome(
        trajectory_id=job.trajectory.trajectory_id,
        instance_id=job.trajectory.instance_id,
        source=job.trajectory.source,
        shell=job.shell,
        steps=(),
        patch=None,
        failure=f"{INFRASTRUCTURE}: {type(outcome).__name__}: {outcome}",
    )


def _jobs(
    folder: Path, instances: Sequence[Instance], config: ReplayConfig, max_trajectories: int | None
) -> tuple[list[Job], Counter[str]]:
    """Return what is to be replayed, and how many trajectories are on each instance that is not given."""
    by_id = {instance.instance_id: instance for instance in instances}
    jobs: list[Job] = []
    missing: Counter[str] = Counter()
    for part in PARTS:
        for compiled in read_compiled(folder, part):
            trajectory = compiled.trajectory
            instance = by_id.get(trajectory.instance_id)
            if instance is None:
                missing[trajectory.instance_id] += 1
            elif max_trajectories is None or len(jobs) < max_trajectories:
                shell = shell_kind(trajectory) if config.shell == "auto" else config.shell
                key = _key(trajectory, instance, shell, config)
                jobs.append(Job(trajectory=trajectory, instance=instance, shell=shell, key=key))
    if not jobs:
        raise DataError(
            f"{folder}: none of its {missing.total()} trajectories is on one of the {len(by_id)} instances that were "
            f"given; the set has {', '.join(sorted(missing)[:3])}…, given were {', '.join(sorted(by_id)[:3])}…: "
            "give the file of the set's own instances (--instances)"
        )
    return jobs, missing


def _key(trajectory: Trajectory, instance: Instance, shell: ShellKind, config: ReplayConfig) -> str:
    settings = (str(config.command_timeout_s), *config.variables, "", *config.same_paths, "", *config.capabilities)
    parts = (verdict_key(instance, trajectory.patch), shell, *settings)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _earlier(
    job: Job, found: Mapping[str, tuple[str, TrajectoryOutcome]], config: ReplayConfig
) -> TrajectoryOutcome | None:
    """Return what an earlier replay found, where that still holds."""
    key, outcome = found.get(job.trajectory.trajectory_id, ("", None))
    if outcome is None or key != job.key or not outcome.is_final or (config.grade and outcome.verdict is None):
        return None
    return outcome


def _own_containers(engine: "Engine") -> set[str]:
    mine = owner_labels().items()
    return {container.id for container in engine.list_containers(LABEL) if mine <= container.labels.items()}
