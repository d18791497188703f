"""Thirty-two members at once: each on its own instance, none sees another, nothing is left."""

import functools
import os
from collections.abc import Iterator
from dataclasses import replace

import gymnasium as gym
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL
from srl_swe.environments.limits import ContainerLimits
from srl_swe.types import Instance
from tests.environments.conftest import make_image, plain_instance, remove_prepared

pytestmark = [pytest.mark.docker, pytest.mark.slow]
NUM = 32
IMAGE = "srl-swe/test-members:latest"


@pytest.fixture(scope="module")
def instances(engine: Engine) -> Iterator[list[Instance]]:
    make_image(engine, IMAGE)
    one = plain_instance(IMAGE)
    yield [replace(one, instance_id=str(number), problem_statement=f"statement {number}") for number in range(NUM)]
    remove_prepared(engine, IMAGE)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_thirty_two_members(engine: Engine, instances: list[Instance], kind: str) -> None:
    make = functools.partial(
        gym.make,
        "srl_swe/SWE-v0",
        instances=instances,
        grade=False,
        num_warm=0,
        limits=ContainerLimits(memory_bytes=64 << 20, max_processes=32),
    )
    functions = [functools.partial(make, instance_id=str(number)) for number in range(NUM)]
    envs = AsyncVectorEnv(functions, shared_memory=False) if kind == "async" else SyncVectorEnv(functions)
    pids = {str(process.pid) for process in envs.processes} if isinstance(envs, AsyncVectorEnv) else {str(os.getpid())}

    def own() -> list[str]:
        return [row.id for row in engine.list_containers(LABEL) if row.labels.get("srl_swe.pid") in pids]

    before = len(own())
    try:
        for _ in range(2):
            observations, infos = envs.reset(seed=0)
            assert observations == tuple(f"statement {number}" for number in range(NUM))
            assert len(own()) - before >= NUM
            envs.step([f"echo {number} >>mine; cd /tmp" for number in range(NUM)])
            observations, _, _, _, infos = envs.step(["cat /repo/mine; pwd"] * NUM)
            assert observations == tuple(f"{number}\n/tmp\n" for number in range(NUM))
            assert list(infos["exit_code"]) == [0] * NUM
        _, _, terminated, _, infos = envs.step(["submit"] * NUM)
        assert terminated.all() and all(f"+{n}\n" in patch for n, patch in enumerate(infos["patch"]))
    finally:
        envs.close()
    assert len(own()) == before
