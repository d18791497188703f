"""The Gymnasium environment: repair a repository in a container by shell commands.

Left out: how the student writes an action (`srl_swe.prompts`) and how many episodes run at once
(`srl_swe.evaluation`).
"""

import io
import os
import tarfile
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import gymnasium as gym
from gymnasium.error import InvalidAction, ResetNeeded

from srl_swe.environments.container import Container, ContainerLimits, Engine
from srl_swe.environments.grading import grade as grade_patch
from srl_swe.environments.images import ensure_image
from srl_swe.environments.instances import load_instances
from srl_swe.environments.observations import format_observation
from srl_swe.environments.shell import Shell
from srl_swe.environments.spaces import UnicodeText
from srl_swe.environments.worktree import WorkTreeBase, extract_patch, forget_history, record_base
from srl_swe.errors import ConfigError, ContainerError, DataError
from srl_swe.types import Instance, Verdict

SUBMIT = "submit"
"""The action that ends an episode."""

_TOOLS = ("edit", "submit")
_TOOL_FOLDER = "/usr/local/bin"


class SWEEnv(gym.Env[str, str]):
    """Repair a repository by shell commands.

    ## Description
    An episode starts in a fresh container that holds an instance's repository at its base commit. Each
    action runs in one persistent bash in the work tree. The action `submit` ends the episode; the
    difference between the work tree and its first state is the patch, which the instance's tests judge
    in another container.

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
    1.0 at `submit` when the verdict is *resolved* and `grade` is on; 0.0 at every other step.

    ## Episode End
    Terminated by `submit`. Truncated after `max_steps` actions or `episode_timeout_s`; a truncated
    episode is not graded. A failure of the infrastructure, an invalid verdict included, ends the episode
    with ContainerError: it has no reward, and `reset` starts it again.

    ## Information
    `instance_id`; after a command `exit_code` (None = ended at the limit), `timed_out`, `shell_replaced`
    and `duration_s`; at the end `patch`, `patch_problem` ("" = none) and, if graded, `verdict` (Verdict).

    ## Arguments
    - `instances`: a file of task rows, or the instances themselves.
    - `instance_id`: plays only this one.
    - `grade`: runs the tests at `submit`.
    - `max_steps`: actions per episode, `submit` included; None = no limit.
    - `command_timeout_s`, `episode_timeout_s`: seconds of wall time.
    - `max_observation_chars`: longest command output in an observation.
    - `limits`: what the container may use.
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
        grade: bool = True,
        max_steps: int | None = None,
        command_timeout_s: float = 90.0,
        episode_timeout_s: float = 3600.0,
        max_observation_chars: int = 10_000,
        limits: ContainerLimits | None = None,
        engine: Engine | None = None,
        render_mode: str | None = None,
    ) -> None:
        for name, value in (
            ("max_steps", 1 if max_steps is None else max_steps),
            ("command_timeout_s", command_timeout_s),
            ("episode_timeout_s", episode_timeout_s),
            ("max_observation_chars", max_observation_chars),
        ):
            if value <= 0:
                raise ConfigError(f"SWEEnv: {name} is {value}; expected more than 0")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(f"SWEEnv: render_mode is {render_mode!r}; expected None or 'ansi'")
        rows = load_instances(os.fspath(instances)) if isinstance(instances, str | os.PathLike) else list(instances)
        if not rows:
            raise DataError(f"SWEEnv: no instances in {instances!r}")
        self._instances = {row.instance_id: row for row in rows}
        self._instance_id = instance_id
        self._grade = grade
        self._max_steps = max_steps
        self._command_timeout_s = command_timeout_s
        self._episode_timeout_s = episode_timeout_s
        self._max_observation_chars = max_observation_chars
        self._limits = limits or ContainerLimits()
        self._engine = engine
        self._owns_engine = engine is None
        self.render_mode = render_mode
        self.action_space = UnicodeText()
        self.observation_space = UnicodeText()
        self._instance = self._find(instance_id) if instance_id is not None else rows[0]
        self._container: Container | None = None
        self._shell: Shell | None = None
        self._base: WorkTreeBase | None = None
        self._num_steps = 0
        self._deadline = 0.0
        self._last = ""

    @property
    def instance(self) -> Instance:
        """The instance of the current episode."""
        return self._instance

    @property
    def container(self) -> Container | None:
        """The container of the current episode; None between episodes."""
        return self._container

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode in a fresh container and return the problem statement.

        Raises:
            ConfigError: `options` names an unknown instance.
            ContainerError: the image or the container could not be made ready.
        """
        super().reset(seed=seed)
        self._end_episode()
        wanted = (options or {}).get("instance_id", self._instance_id)
        if wanted is None:
            ids = list(self._instances)
            wanted = ids[int(self.np_random.integers(len(ids)))] if len(ids) > 1 else ids[0]
        self._instance = self._find(wanted)
        if self._engine is None:
            self._engine = Engine.connect()
        environment = self._instance.environment
        image = ensure_image(self._engine, environment)
        self._container = Container.start(
            self._engine, image, limits=self._limits, name_hint=self._instance.instance_id
        )
        try:
            self._container.put_archive("/", _tools_tar())
            forget_history(self._container, environment.workdir)
            self._base = record_base(self._container, environment.workdir)
            self._shell = Shell(self._container, workdir=environment.workdir, activate=environment.activate)
        except BaseException:
            self._end_episode()
            raise
        self._num_steps = 0
        self._deadline = time.monotonic() + self._episode_timeout_s
        self._last = self._instance.problem_statement
        return self._instance.problem_statement, {"instance_id": self._instance.instance_id}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Run a command, or end the episode when the action is `submit`.

        Raises:
            ResetNeeded: no episode is running.
            InvalidAction: the action is not a string.
            ContainerError: the infrastructure failed; the episode is over without a reward.
        """
        if self._shell is None or self._container is None or self._base is None:
            raise ResetNeeded("SWEEnv: no episode is running; call reset() first")
        if not isinstance(action, str):
            raise InvalidAction(f"SWEEnv: expected an action of type str, found {type(action).__name__}")
        try:
            if action.strip() == SUBMIT:
                return self._submit()
            return self._run(self._shell, action)
        except BaseException:
            self._end_episode()
            raise

    def render(self) -> str | None:
        """Return the last action and its observation when `render_mode` is "ansi"."""
        return self._last if self.render_mode == "ansi" else None

    def close(self) -> None:
        """End the episode and remove its container; idempotent."""
        self._end_episode()
        if self._owns_engine and self._engine is not None:
            self._engine.close()
            self._engine = None

    def _run(self, shell: Shell, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        timeout_s = max(0.1, min(self._command_timeout_s, self._deadline - time.monotonic()))
        # Bytes, four to a character at most, so that the cut falls in the observation and not before.
        result = shell.run(action, timeout_s=timeout_s, max_output_bytes=4 * self._max_observation_chars + 1024)
        observation = format_observation(result, self._max_observation_chars, timeout_s=timeout_s)
        self._last = f"$ {action}\n{observation}"
        self._num_steps += 1
        info: dict[str, Any] = {
            "instance_id": self._instance.instance_id,
            "exit_code": result.exit_code,
            "timed_out": result.timed_out,
            "shell_replaced": result.shell_replaced,
            "duration_s": result.duration_s,
        }
        too_many = self._max_steps is not None and self._num_steps >= self._max_steps
        truncated = too_many or time.monotonic() >= self._deadline
        if truncated:
            info |= self._finish()
        return observation, 0.0, False, truncated, info

    def _submit(self) -> tuple[str, float, bool, bool, dict[str, Any]]:
        info: dict[str, Any] = {"instance_id": self._instance.instance_id, "exit_code": 0, "timed_out": False}
        info |= self._finish()
        reward = 0.0
        if self._grade:
            assert self._engine is not None
            verdict: Verdict = grade_patch(self._engine, self._instance, info["patch"])
            if verdict.status == "invalid":
                raise ContainerError(
                    f"{self._instance.instance_id}: the patch could not be judged: {verdict.reason}; "
                    "the episode has no reward, reset() starts it again"
                )
            info["verdict"] = verdict
            reward = 1.0 if verdict.status == "resolved" else 0.0
        self._last = f"$ {SUBMIT}"
        return "", reward, True, False, info

    def _finish(self) -> dict[str, Any]:
        """Take the patch out of the container and end the episode."""
        assert self._container is not None and self._base is not None
        extracted = extract_patch(self._container, self._instance.environment.workdir, self._base)
        self._end_episode()
        return {"patch": extracted.patch, "patch_problem": extracted.problem}

    def _end_episode(self) -> None:
        shell, self._shell, self._base = self._shell, None, None
        container, self._container = self._container, None
        try:
            if shell is not None:
                shell.close()
        finally:
            if container is not None:
                container.close()

    def _find(self, instance_id: str) -> Instance:
        try:
            return self._instances[instance_id]
        except KeyError:
            some = ", ".join(list(self._instances)[:5])
            raise ConfigError(
                f"SWEEnv: no instance {instance_id!r} among {len(self._instances)}; the first are: {some}"
            ) from None


def _tools_tar() -> bytes:
    """Return the programs for agents as a tar rooted at /."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in _TOOLS:
            data = (files("srl_swe") / "docker" / name).read_bytes()
            entry = tarfile.TarInfo(f"{_TOOL_FOLDER}/{name}".lstrip("/"))
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
    return tar.getvalue()
