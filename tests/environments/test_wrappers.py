"""What an episode may cost and how many steps it may take; in real containers where the patch matters."""

import math
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import TimeLimit
from hypothesis import given
from hypothesis import strategies as st

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.environments.engine import Engine
from srl_swe.environments.instances import instance_from_row
from srl_swe.environments.swe_env import SWEEnv
from srl_swe.environments.wrappers import CostLimit, RecordEpisode
from srl_swe.errors import ConfigError
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.types import Instance
from tests.environments.text_env import Answer, TextEnv

Price = Callable[[str, str, dict[str, Any]], float]


def fixed(*costs: float) -> Price:
    prices = iter(costs)
    return lambda action, observation, info: next(prices)


def test_costs_add_up_until_the_limit_is_passed() -> None:
    inner = TextEnv([Answer(observation="out")] * 9)
    env = CostLimit(inner, 1.0, fixed(0.5, 0.25, 0.5))
    assert env.reset()[1]["cost"] == 0.0
    observation, reward, terminated, truncated, info = env.step("a")
    assert (observation, reward, terminated, truncated, info["cost"]) == ("out", 0.0, False, False, 0.5)
    assert env.step("b")[4]["cost"] == 0.75
    observation, _, terminated, truncated, info = env.step("c")
    assert (observation, terminated, truncated, info["cost"]) == ("out", False, True, 1.25)
    assert info["patch"] == "patch after 3" and info["exit_code"] == 0
    with pytest.raises(ResetNeeded):
        env.step("d")
    assert inner.num_finished == 1
    assert env.reset()[1]["cost"] == 0.0


@pytest.mark.parametrize("action", ["d", "submit"])
def test_at_the_limit_nothing_is_run_any_more(action: str) -> None:
    inner = TextEnv([Answer()] * 9)
    env = CostLimit(inner, 1.0, fixed(*[0.1] * 10))
    env.reset()
    for _ in range(9):
        assert env.step("a")[3] is False
    inner.actions.clear()
    assert env.step("a")[3] is False, "reached, not passed"
    observation, reward, terminated, truncated, info = env.step(action)
    assert inner.actions == ["a"]
    assert observation == "[not run: the episode has cost 1, its limit is 1]"
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info == {
        "instance_id": "a__b-1",
        "exit_code": None,
        "timed_out": False,
        "cost": 1.0,
        "patch": "patch after 1",
        "patch_problem": "",
    }


def test_the_end_that_the_environment_chose_stays_its_own() -> None:
    inner = TextEnv([Answer(ends=True)])
    env = CostLimit(inner, 1.0, fixed(5.0))
    env.reset()
    _, _, terminated, truncated, info = env.step("submit")
    assert (terminated, truncated, info["cost"], info["patch"], inner.num_finished) == (True, False, 5.0, "diff", 0)


@pytest.mark.parametrize("cost", [math.nan, -0.5, math.inf, -math.inf, None, "1", True, 10**400, Decimal(1), [1.0]])
def test_a_cost_that_is_none_is_named(cost: Any) -> None:
    env = CostLimit(TextEnv([Answer()]), 1.0, fixed(cost))
    env.reset()
    with pytest.raises(ConfigError, match="step 0") as caught:
        env.step("ls -la")
    assert repr(cost) in str(caught.value) and "'ls -la'" in str(caught.value)


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, math.inf, None, "3", True])
def test_a_limit_that_is_none_is_named(limit: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        CostLimit(TextEnv([]), limit, fixed())
    assert repr(limit) in str(caught.value)


def test_numbers_of_numpy_and_costs_that_cannot_be_copied_serve() -> None:
    class Meter:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def cost(self, action: str, observation: str, info: dict[str, Any]) -> float:
            with self.lock:
                return np.float32(0.5)

    env = CostLimit(TextEnv([Answer()]), np.int64(1), Meter().cost)
    env.reset()
    info = env.step("a")[4]
    assert type(info["cost"]) is float and info["cost"] == 0.5


@given(st.lists(st.floats(0, 2, width=16), min_size=1, max_size=30), st.floats(0.25, 8, width=16))
def test_no_step_begins_with_the_limit_reached(costs: list[float], limit: float) -> None:
    inner = TextEnv([Answer()] * len(costs))
    env = CostLimit(inner, limit, fixed(*costs))
    env.reset()
    truncated = False
    for _ in costs:
        *_, truncated, info = env.step("a")
        if truncated:
            break
    run = costs[: len(inner.actions)]
    # 16-bit floats add up exactly.
    assert sum(run[:-1]) < limit and info["cost"] == sum(run)
    assert truncated == (sum(run) > limit or len(run) < len(costs))


def test_both_wrappers_go_into_the_specification(tmp_path: Path) -> None:
    env = gym.make("srl_swe/SWE-v0", instances=[_instance()], max_episode_steps=5)
    wrapped = RecordEpisode(CostLimit(env, 1.0, fixed()), tmp_path, model="me")
    assert wrapped.spec is not None
    names = [(wrapper.name, wrapper.kwargs) for wrapper in wrapped.spec.additional_wrappers]
    assert [name for name, _ in names] == ["CostLimit", "RecordEpisode"]
    assert names[1][1] == {"folder": tmp_path, "model": "me"}
    again = gym.make(wrapped.spec)
    assert isinstance(again, RecordEpisode) and isinstance(again.env, CostLimit)
    again.close()
    wrapped.close()


def _instance(row: dict[str, Any] | None = None) -> Instance:
    from srl_swe.types import InstanceEnvironment, InstanceTests

    if row is not None:
        return instance_from_row(row, where="tiny")
    return Instance(
        instance_id="a__b-1",
        repo="a/b",
        base_commit="",
        problem_statement="It fails.",
        environment=InstanceEnvironment(image="none:none"),
        tests=InstanceTests(script="", parser="parse_log_pytest", fail_to_pass=(), pass_to_pass=()),
        gold_patch="",
    )


@pytest.mark.docker
def test_gymnasiums_limit_of_steps_holds_and_ours_delivers_the_patch(
    build_engine: Engine, tiny_row: dict[str, Any]
) -> None:
    tiny = _instance(tiny_row)
    for env in (
        gym.make("srl_swe/SWE-v0", instances=[tiny], grade=False, max_episode_steps=3),
        TimeLimit(SWEEnv([tiny], grade=False), max_episode_steps=3),
    ):
        env.reset()
        ends = [env.step("echo 1 >>new")[2:4] for _ in range(3)]
        assert ends == [(False, False), (False, False), (False, True)]
        env.reset()
        assert env.step("cat new")[4]["exit_code"] == 1, "a fresh container"
        _, _, terminated, truncated, info = env.step("submit")
        assert (terminated, truncated) == (True, False) and info["patch"] == ""
        env.close()
    env = gym.make("srl_swe/SWE-v0", instances=[tiny], grade=False, max_steps=3)
    env.reset()
    infos = [env.step("echo 1 >>new")[4] for _ in range(3)]
    assert ["patch" in info for info in infos] == [False, False, True]
    assert infos[2]["patch"].endswith("+1\n+1\n+1\n")
    env.close()


@pytest.mark.docker
def test_the_patch_of_an_episode_that_cost_too_much(
    build_engine: Engine, tiny_row: dict[str, Any], tmp_path: Path
) -> None:
    env = gym.make("srl_swe/SWE-v0", instances=[_instance(tiny_row)], grade=False)
    env = RecordEpisode(CostLimit(env, 25, lambda action, observation, info: len(action)), tmp_path)
    env.reset()
    env.step("echo one >new")  # 13
    env.step("echo two >>new")  # 14
    assert isinstance(env.unwrapped, SWEEnv) and env.unwrapped.container is None
    (trajectory,) = read_trajectories([tmp_path], drops=DropCounter())
    assert [step.action for step in trajectory.steps] == ["echo one >new", "echo two >>new"]
    assert trajectory.patch.endswith("+one\n+two\n")

    env.reset()
    env.step("echo 'one'   >>   new.txt")  # 25: reached
    assert env.unwrapped.container is not None
    observation, _, terminated, truncated, info = env.step("echo two >>new.txt")
    assert observation.startswith("[not run: ") and (terminated, truncated) == (False, True)
    assert info["patch"].endswith("+one\n") and env.unwrapped.container is None
    env.close()
