"""Wrappers around `SWEEnv`: write every episode down, and bound what an episode may cost.

The limit of steps is Gymnasium's own `TimeLimit`, or the environment's `max_steps`, which also delivers the patch. Left
out: the form of a record (`recording`).
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from srl_swe.environments.recording import SUFFIX, Ending, ExitStatus, Turn, to_json, trajectory_record
from srl_swe.environments.swe_env import SWEEnv
from srl_swe.errors import ConfigError, ContainerError
from srl_swe.files import file_name, write_numbered
from srl_swe.prompts import ISSUE_TEMPLATE
from srl_swe.types import Step, Verdict

Cost = Callable[[str, str, dict[str, Any]], float]
"""(action, observation, info) of one step -> what the step cost."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Episode:
    """The episode in progress."""

    instance_id: str
    problem_statement: str
    container: object
    """The container in which it began; None where there is none."""
    turns: list[Turn] = field(default_factory=list)
    cost: float = 0.0
    started: float = field(default_factory=time.monotonic)


class RecordEpisode(gym.Wrapper[str, str, str, str], RecordConstructorArgs):
    """Writes each episode into a folder as `<instance id>-<n>.traj.json`, in mini-swe-agent's form.

    The file appears whole when the episode ends: terminated, truncated, failed with the infrastructure, or reset or
    closed in the middle, which its exit status tells. Several processes may write into one folder. `srl-swe data
    compile FOLDER` reads the same steps back; white space around an action is left off.

    Put it outside of wrappers that truncate, so that it sees their word. Only episodes that `reset` began are recorded:
    one that `restore` or `replay` replaces beneath the wrapper ends there.
    """

    def __init__(self, env: gym.Env[str, str], folder: str | os.PathLike[str], *, model: str = "custom agent") -> None:
        """`model` names who acts; it goes into the records."""
        RecordConstructorArgs.__init__(self, folder=folder, model=model)
        super().__init__(env)
        self._folder = Path(folder)
        self._model = model
        self._episode: _Episode | None = None
        self._thought = ""
        self.last_record: Path | None = None
        """The file of the last episode that ended."""

    def think(self, text: str) -> None:
        """Hand over the thought that the next action comes from; the last word counts."""
        self._thought = text

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Write down an episode that is left in the middle, and start another."""
        self._end(Ending(exit_status="reset"))
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode = _Episode(
            instance_id=info["instance_id"], problem_statement=observation, container=self._container()
        )
        return observation, info

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """Act, and write the episode down where this ends it."""
        if self._episode is not None and self._episode.container is not self._container():
            self._end(Ending(exit_status="reset"))
        thought, self._thought = self._thought, ""
        with self._failures_recorded():
            observation, reward, terminated, truncated, info = self.env.step(action)
        if self._episode is not None:
            # A submission has no exit code, as in published trajectories.
            code = None if terminated else info.get("exit_code")
            step = Step(thought=thought, action=action.strip(), observation=observation, exit_code=code)
            self._episode.turns.append(Turn(step=step, observation=observation))
            self._episode.cost = float(info.get("cost", 0.0))
        if terminated or truncated:
            self._end(_ending("submitted" if terminated else "truncated", info))
        return observation, reward, terminated, truncated, info

    def finish(self) -> dict[str, Any]:
        """End the episode as `SWEEnv.finish` does, and write it down with its patch."""
        with self._failures_recorded():
            finished: dict[str, Any] = self.env.get_wrapper_attr("finish")()
        self._end(_ending("truncated", finished))
        return finished

    def close(self) -> None:
        """Write down an episode that is left in the middle, and close the environment."""
        try:
            self._end(Ending(exit_status="closed"))
        finally:
            super().close()

    @contextmanager
    def _failures_recorded(self) -> Iterator[None]:
        try:
            yield
        except ContainerError as error:
            self._end(Ending(exit_status="container_error", error=f"{type(error).__name__}: {error}"))
            raise

    def _container(self) -> object:
        return self.unwrapped.container if isinstance(self.unwrapped, SWEEnv) else None

    def _end(self, ending: Ending) -> None:
        """Write the episode in progress, if there is one in which something happened."""
        episode, self._episode, self._thought = self._episode, None, ""
        if episode is None or not (episode.turns or ending.error):
            return
        config: dict[str, Any] = {
            "agent": {"instance_template": ISSUE_TEMPLATE},
            "model": {"model_name": self._model},
        }
        if isinstance(self.unwrapped, SWEEnv):
            place = self.unwrapped.instance.environment
            config["environment"] = {"image": place.image, "cwd": place.workdir}
        record = trajectory_record(
            instance_id=episode.instance_id,
            prompt=[{"role": "user", "content": ISSUE_TEMPLATE.replace("{{task}}", episode.problem_statement)}],
            turns=episode.turns,
            ending=ending,
            config=config,
            model_stats={"instance_cost": episode.cost},
            duration_s=time.monotonic() - episode.started,
        )
        self.last_record = write_numbered(self._folder, file_name(episode.instance_id), SUFFIX, to_json(record))


def _ending(exit_status: ExitStatus, info: Mapping[str, Any]) -> Ending:
    verdict = info.get("verdict")
    return Ending(
        exit_status=exit_status,
        patch=info.get("patch", ""),
        patch_problem=info.get("patch_problem", ""),
        verdict=verdict.status if isinstance(verdict, Verdict) else None,
    )


class CostLimit(gym.Wrapper[str, str, str, str], RecordConstructorArgs):
    """Truncates an episode whose steps cost too much, with its patch in `info`.

    `cost(action, observation, info)` says after each step what it cost, in any unit; a model's own calls may be added
    in. `info["cost"]` is the sum so far. A step that takes the sum over `max_cost` truncates the episode. When the sum
    has reached `max_cost` nothing more is run: the next action, `submit` included, truncates the episode instead.
    """

    def __init__(self, env: gym.Env[str, str], max_cost: float, cost: Cost) -> None:
        """`max_cost` is above 0.

        Raises:
            ConfigError: it is not.
        """
        # Not copied: the cost may be a method of something that cannot be, such as a client with open connections.
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, max_cost=max_cost, cost=cost)
        super().__init__(env)
        if _number(max_cost) is None or not 0 < max_cost < math.inf:
            raise ConfigError(f"CostLimit: max_cost is {max_cost!r}; expected a finite number above 0")
        self._max_cost = float(max_cost)
        self._cost = cost
        self._costs: list[float] = []
        self._instance_id = ""
        self._is_running = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode that has cost nothing yet."""
        self._is_running = False
        observation, info = self.env.reset(seed=seed, options=options)
        self._costs, self._instance_id, self._is_running = [], info.get("instance_id", ""), True
        return observation, info | {"cost": 0.0}

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """Run an action and add its cost, or truncate the episode where the limit is reached.

        Raises:
            ResetNeeded: no episode is running.
            ConfigError: the cost of the step is no finite number of at least 0; the step has run.
        """
        if not self._is_running:
            raise ResetNeeded("CostLimit: no episode is running; call reset() first")
        spent = math.fsum(self._costs)
        if spent >= self._max_cost:
            observation = f"[not run: the episode has cost {spent:g}, its limit is {self._max_cost:g}]"
            refusal = {"instance_id": self._instance_id, "exit_code": None, "timed_out": False, "cost": spent}
            return observation, 0.0, False, True, refusal | self._finish()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._costs.append(self._cost_of(action, observation, info))
        spent = math.fsum(self._costs)
        info = info | {"cost": spent}
        self._is_running = not (terminated or truncated)
        if self._is_running and spent > self._max_cost:
            truncated = True
            info |= self._finish()
        return observation, reward, terminated, truncated, info

    def _cost_of(self, action: str, observation: str, info: dict[str, Any]) -> float:
        cost = self._cost(action, observation, info)
        value = _number(cost)
        if value is None or not 0 <= value < math.inf:
            raise ConfigError(
                f"CostLimit: the cost of step {len(self._costs)} ({action[:80]!r}) is {cost!r}; "
                "expected a finite number of at least 0"
            )
        return value

    def _finish(self) -> dict[str, Any]:
        """End the episode and return its patch."""
        self._is_running = False
        finished: dict[str, Any] = self.env.get_wrapper_attr("finish")()
        return finished


def _number(value: object) -> float | None:
    """Return a real number, numpy's included, as a float; None for anything else."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer beyond the range of floats
        return math.inf
