"""The Gymnasium environment: repair a repository in a container by shell commands.

Left out: how the student writes an action (`srl_swe.prompts`), how many episodes run at once
(`srl_swe.evaluation`), wrappers (`wrappers.py`).
"""

import contextlib
import copy
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
from gymnasium.error import InvalidAction, ResetNeeded

from srl_swe.environments.connect import connect_engine
from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.expert_rewards import ExpertRewards
from srl_swe.environments.grading import grade as grade_patch
from srl_swe.environments.instances import load_instances
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.observations import format_observation
from srl_swe.environments.sessions import Session, WarmPool, enter
from srl_swe.environments.snapshots import Snapshot, SnapshotFiles
from srl_swe.environments.spaces import ExitCode, UnicodeText
from srl_swe.environments.worktree import extract_patch
from srl_swe.errors import ConfigError, ContainerError, DataError
from srl_swe.types import Instance, InstanceEnvironment, Step, Trajectory, Verdict

SUBMIT = "submit"
"""The action that ends an episode."""


class SWEEnv(gym.Env[str, str]):
    """Repair a repository by shell commands.

    ## Description
    An episode starts in a fresh container that holds an instance's repository at its base commit. Each
    action runs in one persistent bash in the work tree. The action `submit` ends the episode; the
    difference between the work tree and its first state is the patch, which the instance's tests judge
    in another container. `snapshot`, `restore` and `fork` let episodes go on from one state.

    ## Action Space
    `UnicodeText()`: a shell command of any length, run as it stands; `submit` alone ends the episode.
    The program `edit` views and edits files. There is no network, and standard input is empty.

    ## Observation Space
    `UnicodeText()`: at first the problem statement; then a command's merged output, its middle cut
    beyond `max_observation_chars`, and a last line when it failed, reached its time limit or ended the shell.

    ## Starting State
    The instance of `options={"instance_id": …}`, else of the argument `instance_id`, else one drawn by
    the seeded generator. Nothing else is random, but programs may be.

    ## Rewards
    Without a trajectory of the instance: 1.0 at `submit` when the verdict is *resolved* and `grade` is on; 0.0 at
    every other step. With one: the similarity, in [0, 1], of the action to the one that the expert took at this
    step, `submit` included; 0.0 where the expert took none any more. With `similarity_weight` w the two are blended, so
    that the rewards of an episode add up to w * similarity over the expert's steps on average, + 1 - w where the
    verdict is *resolved*.

    ## Episode End
    Terminated by `submit`. Truncated after `max_steps` actions or `episode_timeout_s`; a truncated
    episode is not graded. A failure of the infrastructure, an invalid verdict included, ends the episode
    with ContainerError: it has no reward, and `reset` starts it again.

    ## Information
    `instance_id` and `workdir`; after a command `exit_code` (None = ended at the limit), `timed_out`,
    `shell_replaced` and `duration_s`; with a trajectory `expert_action`, what the expert did next (None = nothing);
    at the end `patch`, `patch_problem` ("" = none) and, if graded, `verdict` (Verdict).

    ## Arguments
    - `instances`: a file of task rows, or the instances themselves.
    - `instance_id`: plays only this one.
    - `trajectories`: expert trajectories, at most one of an instance; only instances that have one are played.
    - `similarity_weight`: share of the similarity in a blended reward, in [0, 1]; None = no blend.
    - `grade`: runs the tests at `submit`.
    - `max_steps`: actions per episode, `submit` included; None = no limit.
    - `command_timeout_s`, `episode_timeout_s`: seconds of wall time.
    - `max_observation_chars`: longest command output in an observation.
    - `strip_escapes`: leaves colours and other control sequences of terminals out of observations.
    - `limits`: what the container may use.
    - `num_warm`: containers opened in the background for the resets to come; with 0 nothing waits, and no
      prepared image is kept.
    - `engine`: a connection to share; None opens one, closed by `close`.
    - `render_mode`: "ansi" makes `render` return the last action and its observation.

    ## Version History
    - v0: first version.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - Gymnasium's own way

    def __init__(
        self,
        instances: str | os.PathLike[str] | Sequence[Instance],
        *,
        instance_id: str | None = None,
        trajectories: Sequence[Trajectory] = (),
        similarity_weight: float | None = None,
        grade: bool = True,
        max_steps: int | None = None,
        command_timeout_s: float = 90.0,
        episode_timeout_s: float = 3600.0,
        max_observation_chars: int = 10_000,
        strip_escapes: bool = False,
        limits: ContainerLimits | None = None,
        num_warm: int = 1,
        engine: Engine | None = None,
        render_mode: str | None = None,
    ) -> None:
        for name, value in (
            ("max_steps", 1 if max_steps is None else max_steps),
            ("command_timeout_s", command_timeout_s),
            ("episode_timeout_s", episode_timeout_s),
            ("max_observation_chars", max_observation_chars),
        ):
            if not value > 0:
                raise ConfigError(f"SWEEnv: {name} is {value}; expected more than 0")
        if num_warm < 0:
            raise ConfigError(f"SWEEnv: num_warm is {num_warm}; expected at least 0")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(f"SWEEnv: render_mode is {render_mode!r}; expected None or 'ansi'")
        self._experts = ExpertRewards(trajectories, similarity_weight)
        rows = load_instances(os.fspath(instances)) if isinstance(instances, str | os.PathLike) else list(instances)
        if not rows:
            raise DataError(f"SWEEnv: no instances in {instances!r}")
        self._instances = {row.instance_id: row for row in rows}
        if experts := self._experts.steps_by_instance:
            self._instances = {name: row for name, row in self._instances.items() if name in experts}
            if not self._instances:
                raise DataError(
                    f"SWEEnv: none of the {len(rows)} instances has a trajectory; the first of the "
                    f"{len(experts)} trajectories is for {next(iter(experts))}"
                )
        self._instance_id = instance_id
        self._grade = grade
        self._max_steps = max_steps
        self._command_timeout_s = command_timeout_s
        self._episode_timeout_s = episode_timeout_s
        self._max_observation_chars = max_observation_chars
        self._strip_escapes = strip_escapes
        self._limits = limits or ContainerLimits()
        self._num_warm = num_warm
        self._engine = engine
        self._owns_engine = engine is None
        self.render_mode = render_mode
        self.action_space = UnicodeText()
        self.observation_space = UnicodeText()
        first = next(iter(self._instances.values()))
        self._instance = self._find(instance_id) if instance_id is not None else first
        self._pool: WarmPool | None = None
        self._session: Session | None = None
        self._source: SnapshotFiles | None = None
        """The snapshot that the session was started from."""
        self._num_steps = 0
        self._deadline = 0.0
        self._last_action = ""
        self._last: tuple[str, dict[str, Any]] = ("", {})
        """The last observation and info."""

    @property
    def instance(self) -> Instance:
        """The instance of the current episode."""
        return self._instance

    @property
    def container(self) -> Container | None:
        """The container of the current episode; None between episodes."""
        return self._session.container if self._session else None

    @property
    def expert_steps(self) -> tuple[Step, ...]:
        """What the expert did on the current instance; () where no trajectory was given."""
        return self._experts.steps(self._instance.instance_id)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode in a container that nobody has used and return the problem statement.

        Raises:
            ConfigError: `options` names an unknown instance.
            ContainerError: the image or the container could not be made ready.
        """
        super().reset(seed=seed)
        wanted = (options or {}).get("instance_id") or self._draw(self.np_random)
        instance = self._find(wanted)
        # What the next reset draws, unless it is told something else.
        following = self._find(self._draw(copy.deepcopy(self.np_random)))
        self._give_back(following.environment)
        self._instance = instance
        pool = self._warm_pool()
        self._session = pool.take(instance.environment, name_hint=instance.instance_id)
        self._begin(num_steps=0, left_s=self._episode_timeout_s)
        if self._num_warm:
            pool.expect(following.environment)
        self._last = (instance.problem_statement, self._info())
        return self._last

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Run a command, or end the episode when the action is `submit`.

        Raises:
            ResetNeeded: no episode is running.
            InvalidAction: the action is not a string.
            ContainerError: the infrastructure failed; the episode is over without a reward.
        """
        session = self._running()
        if not isinstance(action, str):
            raise InvalidAction(f"SWEEnv: expected an action of type str, found {type(action).__name__}")
        try:
            if action.strip() == SUBMIT:
                return self._submit()
            return self._run(session, action)
        except BaseException:
            self._end_episode()
            raise

    def judge(self) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """End the episode as `submit` does, where a limit of the caller's ends it: no action, so no similarity.

        Raises:
            ResetNeeded: no episode is running.
            ContainerError: the infrastructure failed; the episode is over without a reward.
        """
        self._running()
        try:
            return self._submit(chosen=False)
        except BaseException:
            self._end_episode()
            raise

    def finish(self) -> dict[str, Any]:
        """End the episode without a verdict and return `patch` and `patch_problem`, as `step` does at the end.

        Raises:
            ResetNeeded: no episode is running.
            ContainerError: the infrastructure failed.
        """
        session = self._running()
        try:
            session.container.unwatch_disk()
            extracted = extract_patch(session.container, self._instance.environment.workdir, session.base)
        finally:
            self._end_episode()
        return {"patch": extracted.patch, "patch_problem": extracted.problem}

    def snapshot(self) -> Snapshot:
        """Keep the episode as it is now: every file, the working directory, steps and time left.

        Variables of the shell and running processes are no part of it; the episode itself goes on with both.

        Raises:
            ResetNeeded: no episode is running.
            ContainerError: the engine failed; the episode goes on.
        """
        session = self._running()
        observation, info = self._last
        return Snapshot(
            instance=self._instance,
            files=SnapshotFiles.take(session.container),
            base=session.base,
            workdir=session.shell.workdir,
            num_steps=self._num_steps,
            left_s=self._deadline - time.monotonic(),
            observation=observation,
            info=dict(info),
        )

    def restore(self, snapshot: Snapshot) -> tuple[str, dict[str, Any]]:
        """Go on from a snapshot, of this or another environment, and return what was observed there.

        Raises:
            ContainerError: the snapshot is closed, or the container could not be started.
        """
        self._give_back()
        engine = self._connection()
        snapshot.files.acquire()
        self._source = snapshot.files
        with contextlib.ExitStack() as undo:
            undo.callback(self._end_episode)
            container = Container.start(
                engine, snapshot.files.image, limits=self._limits, name_hint=snapshot.instance.instance_id
            )
            undo.callback(container.close)
            self._session = enter(container, snapshot.instance.environment, snapshot.base)
            self._session.shell.go_to(snapshot.workdir)
            undo.pop_all()
        self._instance = snapshot.instance
        self._begin(num_steps=snapshot.num_steps, left_s=snapshot.left_s)
        self._last = (snapshot.observation, dict(snapshot.info))
        return self._last

    def fork(self, n: int) -> list["SWEEnv"]:
        """Return `n` environments that go on from the state of this one, each in a container of its own.

        They share this one's connection to the engine: close them before it.

        Raises:
            ResetNeeded: no episode is running.
            ContainerError: the engine failed; nothing is left of any of them.
        """
        if n < 1:
            raise ConfigError(f"SWEEnv.fork: n is {n}; expected at least 1")
        forks = [self._sibling() for _ in range(n)]
        try:
            with self.snapshot() as snapshot, ThreadPoolExecutor(min(n, 8)) as threads:
                restored = [threads.submit(fork.restore, snapshot) for fork in forks]
            for future in restored:
                future.result()
        except BaseException:
            for fork in forks:
                fork.close()
            raise
        return forks

    def replay(self, k: int) -> tuple[str, dict[str, Any]]:
        """Bring the environment to the state before the expert's step `k` by running the steps before it.

        Starts the current instance anew. Returns the last observation, the problem statement for k = 0.

        Raises:
            ConfigError: there is no trajectory of the instance, or `k` is out of range.
            ContainerError: the infrastructure failed.
        """
        steps = self.expert_steps
        last = len(steps) - (1 if steps and steps[-1].action.strip() == SUBMIT else 0)
        if not steps or not 0 <= k <= last:
            found = f"has {len(steps)} steps, so k lies in 0…{last}" if steps else "has no trajectory"
            raise ConfigError(f"SWEEnv.replay({k}): instance {self._instance.instance_id} {found}")
        self.reset(options={"instance_id": self._instance.instance_id})
        for step in steps[:k]:
            _, _, terminated, truncated, _ = self.step(step.action)
            if terminated or truncated:
                raise ConfigError(
                    f"SWEEnv.replay({k}): the episode ended at step {self._num_steps}; raise max_steps or "
                    "episode_timeout_s"
                )
        return self._last

    def render(self) -> str | None:
        """Return the last action and its observation when `render_mode` is "ansi"."""
        if self.render_mode != "ansi":
            return None
        observation = self._last[0]
        return f"$ {self._last_action}\n{observation}" if self._last_action else observation

    def close(self) -> None:
        """End the episode and remove its container, and the warm ones; idempotent."""
        pool, self._pool = self._pool, None
        try:
            self._end_episode()
        finally:
            if pool is not None:
                pool.close()
            if self._owns_engine and self._engine is not None:
                self._engine.close()
                self._engine = None

    def _run(self, session: Session, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        timeout_s = max(0.1, min(self._command_timeout_s, self._deadline - time.monotonic()))
        # Bytes, four to a character at most, so that the cut falls in the observation and not before.
        result = session.shell.run(action, timeout_s=timeout_s, max_output_bytes=4 * self._max_observation_chars + 1024)
        if session.egress is not None and not session.egress.is_alive():
            session.egress.reopen()
        observation = format_observation(
            result, self._max_observation_chars, timeout_s=timeout_s, strip_escapes=self._strip_escapes
        )
        reward = self._experts.of_action(action, self._instance.instance_id, self._num_steps)
        self._num_steps += 1
        info = self._info() | {
            "exit_code": None if result.exit_code is None else ExitCode(result.exit_code),
            "timed_out": result.timed_out,
            "shell_replaced": result.shell_replaced,
            "duration_s": result.duration_s,
        }
        too_many = self._max_steps is not None and self._num_steps >= self._max_steps
        truncated = too_many or time.monotonic() >= self._deadline
        if truncated:
            info |= self.finish()
        self._last_action, self._last = action, (observation, info)
        return observation, reward, False, truncated, info

    def _submit(self, *, chosen: bool = True) -> tuple[str, float, bool, bool, dict[str, Any]]:
        instance_id = self._instance.instance_id
        reward = self._experts.of_action(SUBMIT, instance_id, self._num_steps) if chosen else 0.0
        self._num_steps += chosen
        info = self._info() | {"exit_code": ExitCode(0), "timed_out": False}
        info |= self.finish()
        if self._grade:
            verdict: Verdict = grade_patch(self._connection(), self._instance, info["patch"])
            if verdict.status == "invalid":
                raise ContainerError(
                    f"{instance_id}: the patch could not be judged: {verdict.reason}; "
                    "the episode has no reward, reset() starts it again"
                )
            info["verdict"] = verdict
            reward += self._experts.of_resolving(instance_id) if verdict.status == "resolved" else 0.0
        self._last_action, self._last = SUBMIT, ("", info)
        return "", reward, True, False, info

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"instance_id": self._instance.instance_id}
        if self._session is not None:
            info["workdir"] = self._session.shell.workdir
        if self.expert_steps:
            info["expert_action"] = self._experts.next_action(self._instance.instance_id, self._num_steps)
        return info

    def _begin(self, *, num_steps: int, left_s: float) -> None:
        self._num_steps = num_steps
        self._deadline = time.monotonic() + left_s
        self._last_action = ""

    def _running(self) -> Session:
        if self._session is None:
            raise ResetNeeded("SWEEnv: no episode is running; call reset() first")
        return self._session

    def _give_back(self, following: InstanceEnvironment | None = None) -> None:
        """End the episode in the background; its container may serve again where `following` is its environment."""
        if self._session is None or self._source is not None:
            self._end_episode()
            return
        session, self._session = self._session, None
        self._warm_pool().discard(session, again=session.environment == following)

    def _end_episode(self) -> None:
        session, self._session = self._session, None
        source, self._source = self._source, None
        try:
            if session is not None:
                session.close()
        finally:
            if source is not None:
                source.release()

    def _connection(self) -> Engine:
        if self._engine is None:
            self._engine = connect_engine()
        return self._engine

    def _warm_pool(self) -> WarmPool:
        if self._pool is None:
            self._pool = WarmPool(self._connection(), self._limits, max_per_image=self._num_warm)
        return self._pool

    def _sibling(self) -> "SWEEnv":
        """Return an environment with the same settings, without an episode, on the same connection."""
        sibling = copy.copy(self)
        sibling._engine, sibling._owns_engine = self._connection(), False
        sibling._pool = sibling._session = sibling._source = None
        sibling._np_random = None
        return sibling

    def _draw(self, generator: Any) -> str:
        if self._instance_id is not None:
            return self._instance_id
        ids = list(self._instances)
        return ids[int(generator.integers(len(ids)))] if len(ids) > 1 else ids[0]

    def _find(self, instance_id: str) -> Instance:
        try:
            return self._instances[instance_id]
        except KeyError:
            some = ", ".join(list(self._instances)[:5])
            raise ConfigError(
                f"SWEEnv: no instance {instance_id!r} among {len(self._instances)}; the first are: {some}"
            ) from None
