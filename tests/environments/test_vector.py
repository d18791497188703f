"""Gymnasium's own vector environments around SWEEnv, two or three members in each mode."""

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.environments.engine import Engine
from srl_swe.environments.instances import instance_from_row
from srl_swe.environments.wrappers import RecordEpisode
from srl_swe.errors import ContainerError
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.types import Instance, Verdict

pytestmark = pytest.mark.docker

FIX = "sed -i 's/a - b/a + b/' src/tinycalc/__init__.py"
MODES = [(kind, mode) for kind in ("sync", "async") for mode in AutoresetMode]


@pytest.fixture(scope="module")
def instances(build_engine: Engine, tiny_row: dict[str, Any]) -> tuple[Instance, ...]:
    tiny = instance_from_row(tiny_row, where="tiny")
    return tuple(replace(tiny, instance_id=f"tiny__calc-{n}", problem_statement=f"statement {n}") for n in range(8))


@contextmanager
def members(engine: Engine, kind: str, num_envs: int, mode: AutoresetMode, **arguments: Any) -> Iterator[VectorEnv]:  # type: ignore[type-arg]
    """A vector environment; nothing of it is left in the end."""
    vector_arguments: dict[str, Any] = {"autoreset_mode": mode} | ({"shared_memory": False} if kind == "async" else {})
    with warnings.catch_warnings():
        warnings.simplefilter("error", append=True)
        envs = gym.make_vec(
            "srl_swe/SWE-v0",
            num_envs=num_envs,
            vectorization_mode=kind,
            vector_kwargs=vector_arguments,
            **arguments,
        )
    owners = [process.pid for process in envs.processes] if isinstance(envs, AsyncVectorEnv) else [os.getpid()]
    before = {pid: len(engine.list_containers(f"srl_swe.pid={pid}")) for pid in owners}
    try:
        yield envs
    finally:
        # A step that failed halfway is never answered: without a limit the end of the test would wait for ever.
        envs.close(**({"timeout": 30} if kind == "async" else {}))
    assert {pid: len(engine.list_containers(f"srl_swe.pid={pid}")) for pid in owners} == before


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_three_members_through_the_end_of_an_episode(
    build_engine: Engine, instances: tuple[Instance, ...], kind: str, mode: AutoresetMode
) -> None:
    with members(build_engine, kind, 3, mode, instances=instances) as envs:
        observations, infos = envs.reset(seed=[1, 2, 3])
        drawn = list(infos["instance_id"])
        assert observations == tuple(f"statement {name[-1]}" for name in drawn) and len(set(drawn)) > 1
        assert envs.observation_space.contains(observations)
        assert envs.reset(seed=1)[1]["instance_id"].tolist() == drawn, "one seed stands for seed, seed + 1, …"

        observations, rewards, terminated, truncated, infos = envs.step((FIX, "echo new >new", "exit 3"))
        assert observations[:2] == ("", "") and observations[2].startswith("[exit code 3]\n[the shell ended")
        assert list(infos["exit_code"]) == [0, 0, 3] and infos["shell_replaced"].tolist() == [False, False, True]
        assert not (rewards.any() or terminated.any() or truncated.any())

        observations, rewards, terminated, truncated, infos = envs.step(("submit", "submit", "pwd"))
        assert rewards.tolist() == [1.0, 0.0, 0.0]
        assert (terminated.tolist(), truncated.tolist()) == ([True, True, False], [False, False, False])
        ends = infos["final_info"] if mode == AutoresetMode.SAME_STEP else infos
        assert ends["_verdict"].tolist() == [True, True, False]
        first, second, third = ends["verdict"]
        assert isinstance(first, Verdict) and isinstance(second, Verdict) and third is None
        assert (first.status, second.status) == ("resolved", "unresolved")
        assert first.instance_id == drawn[0] and first.test_status and "passed" in first.log
        assert "+    return a + b" in ends["patch"][0] and "+new" in ends["patch"][1] and ends["patch"][2] is None
        assert ends["patch_problem"].tolist() == ["", "", None]

        if mode == AutoresetMode.SAME_STEP:
            assert infos["final_obs"].tolist() == ["", "", None]
            begun = infos
        elif mode == AutoresetMode.NEXT_STEP:
            observations, rewards, terminated, _, begun = envs.step(("not run", "not run", "pwd"))
            assert not terminated.any() and begun["_exit_code"].tolist() == [False, False, True]
        else:
            observations, begun = envs.reset(options={"reset_mask": np.array([True, True, False])})
        assert observations[2] == "/testbed\n", "the third goes on"
        assert observations[:2] == tuple(f"statement {name[-1]}" for name in begun["instance_id"][:2])
        observations, *_ = envs.step(("git status --short", "ls new", "pwd"))
        assert observations[0] == "" and "No such file" in observations[1], "fresh containers"


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    "actions",
    [
        ("sleep 30", "true"),
        ("true", "sleep 30"),
    ],
)
def test_a_time_limit_beside_an_exit_code(
    build_engine: Engine, instances: tuple[Instance, ...], kind: str, actions: tuple[str, str]
) -> None:
    mode = AutoresetMode.NEXT_STEP
    with members(build_engine, kind, 2, mode, instances=instances, command_timeout_s=1, grade=False) as envs:
        envs.reset(seed=0)
        infos = envs.step(actions)[4]
        expected = [None if action == "sleep 30" else 0 for action in actions]
        assert list(infos["exit_code"]) == expected
        assert infos["timed_out"].tolist() == [code is None for code in expected]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_each_member_plays_what_its_own_function_says(
    build_engine: Engine, instances: tuple[Instance, ...], kind: str
) -> None:
    make = functools.partial(gym.make, "srl_swe/SWE-v0", instances=instances, grade=False)
    functions = [functools.partial(make, instance_id=f"tiny__calc-{n}", max_steps=n) for n in (5, 1, 2)]
    envs = AsyncVectorEnv(functions, shared_memory=False) if kind == "async" else SyncVectorEnv(functions)
    try:
        assert envs.reset()[0] == ("statement 5", "statement 1", "statement 2")
        _, _, _, truncated, infos = envs.step(["echo 1 >new"] * 3)
        assert truncated.tolist() == [False, True, False] and infos["patch"][1].endswith("+1\n")
        observations, _, _, truncated, infos = envs.step(["echo 2 >>new"] * 3)
        assert observations == ("", "statement 1", "") and truncated.tolist() == [False, False, True]
        assert infos["patch"][2].endswith("+1\n+2\n")
    finally:
        envs.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_member_records_its_episodes(
    build_engine: Engine, instances: tuple[Instance, ...], kind: str, tmp_path: Path
) -> None:
    wrappers = [functools.partial(RecordEpisode, folder=tmp_path)]
    mode = AutoresetMode.SAME_STEP
    with members(build_engine, kind, 2, mode, instances=instances[:1], grade=False, wrappers=wrappers) as envs:
        envs.reset()
        envs.step(("echo first", "echo second"))
        envs.step(("submit", "submit"))
        envs.step(("echo third", "echo fourth"))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"tiny__calc-0-{n}.traj.json" for n in (1, 2, 3, 4)]
    read = read_trajectories([tmp_path], drops=DropCounter())
    assert {trajectory.steps[0].action: len(trajectory.steps) for trajectory in read} == {
        "echo first": 2,
        "echo second": 2,
        "echo third": 1,
        "echo fourth": 1,
    }


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium prints the member's stack trace as a warning
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_failure_of_the_infrastructure_is_raised(
    build_engine: Engine, instances: tuple[Instance, ...], kind: str
) -> None:
    mode = AutoresetMode.NEXT_STEP
    with members(build_engine, kind, 2, mode, instances=instances, grade=False, num_warm=0) as envs:
        _, infos = envs.reset(seed=0)
        owner = envs.processes[0].pid if isinstance(envs, AsyncVectorEnv) else os.getpid()
        own = build_engine.list_containers(f"srl_swe.pid={owner}")
        (first,) = [container.id for container in own if infos["instance_id"][0] in container.id]
        build_engine.remove(first)
        with pytest.raises(ContainerError, match="no longer runs"):
            envs.step(("ls", "ls"))
        if kind == "sync":
            envs.reset()
            assert envs.step(("echo 1", "echo 2"))[0] == ("1\n", "2\n")
