"""The Gymnasium environment, episode by episode, in real containers."""

import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.environments.engine import Engine
from srl_swe.environments.instances import instance_from_row
from srl_swe.environments.swe_env import SWEEnv
from srl_swe.errors import ConfigError, ContainerError, DataError
from srl_swe.types import Instance, Step, Trajectory
from tests.environments.conftest import make_image, plain_instance, remove_prepared

pytestmark = pytest.mark.docker
IMAGE = "srl-swe/test-swe-env:latest"
SETUP = """
set -e
mkdir /repo && cd /repo && git init -q && echo 'x = 1' >code.py && git add -A
git -c user.name=a -c user.email=a@b commit -qm base
"""


@pytest.fixture(scope="module")
def instance(engine: Engine) -> Iterator[Instance]:
    make_image(engine, IMAGE, SETUP)
    yield plain_instance(IMAGE, activate="export READY=1")
    remove_prepared(engine, IMAGE)


@pytest.fixture
def env(engine: Engine, instance: Instance) -> Iterator[SWEEnv]:
    env = SWEEnv([instance], engine=engine, grade=False)
    yield env
    env.close()


def _num_containers(engine: Engine) -> int:
    return len(engine.list_containers(f"srl_swe.pid={os.getpid()}"))


def test_gymnasium_has_nothing_to_complain_about(engine: Engine, instance: Instance) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("srl_swe/SWE-v0", instances=[instance], engine=engine, grade=False, render_mode="ansi")
        check_env(env.unwrapped)
        env.close()


def test_an_episode(env: SWEEnv) -> None:
    observation, info = env.reset(seed=1)
    assert (observation, info) == ("x should be 2", {"instance_id": "one", "workdir": "/repo"})
    assert env.step("cat code.py; echo $READY")[0] == "x = 1\n1\n"
    assert env.step("cd /tmp; nosuch")[0] == "bash: nosuch: command not found\n[exit code 127]"
    observation, reward, terminated, truncated, info = env.step(
        "cd /repo; sed -i s/1/2/ code.py; echo 'y' >new.py; pwd"
    )
    assert (observation, reward, terminated, truncated) == ("/repo\n", 0.0, False, False)
    assert (info["exit_code"], info["timed_out"]) == (0, False)
    _, reward, terminated, truncated, info = env.step(" submit\n")
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert "-x = 1\n+x = 2\n" in info["patch"] and "+y\n" in info["patch"] and info["patch_problem"] == ""
    assert "verdict" not in info
    with pytest.raises(ResetNeeded):
        env.step("ls")


def test_episodes_do_not_see_each_other(env: SWEEnv, engine: Engine) -> None:
    before = _num_containers(engine)
    env.reset()
    env.step("echo changed >code.py; touch /tmp/left")
    env.reset()
    assert env.step("cat code.py; ls /tmp")[0] == "x = 1\n"
    env.close()
    assert _num_containers(engine) == before


def test_submit_among_other_commands_submits_nothing(env: SWEEnv) -> None:
    env.reset()
    observation, _, terminated, _, info = env.step("ls && submit")
    assert "whole action" in observation and info["exit_code"] == 2 and not terminated


def test_the_edit_tool_is_there(env: SWEEnv) -> None:
    env.reset()
    env.step("edit replace code.py <<'EOF'\nx = 1\n=======\nx = 2\nEOF")
    assert env.step("cat code.py")[0] == "x = 2\n"


def test_the_last_step_allowed_truncates_with_the_patch(engine: Engine, instance: Instance) -> None:
    env = SWEEnv([instance], engine=engine, max_steps=2)
    env.reset()
    assert env.step("echo z >z.py")[3] is False
    _, reward, terminated, truncated, info = env.step("true")
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "+z\n" in info["patch"] and "verdict" not in info
    env.close()


def test_time_limits_of_command_and_episode(engine: Engine, instance: Instance) -> None:
    env = SWEEnv([instance], engine=engine, grade=False, command_timeout_s=1, episode_timeout_s=4)
    env.reset()
    observation, _, _, truncated, info = env.step("echo a; sleep 60")
    assert observation.startswith("a\n[ended at the time limit of 1 s") and "fresh one" in observation
    assert (info["exit_code"], info["timed_out"], truncated) == (None, True, False)
    for _ in range(5):
        _, _, terminated, truncated, info = env.step("sleep 60")
        if truncated:
            break
    assert truncated and not terminated and info["patch"] == ""
    env.close()


def test_long_output_is_cut_in_the_middle(engine: Engine, instance: Instance) -> None:
    env = SWEEnv([instance], engine=engine, grade=False, max_observation_chars=100)
    env.reset()
    observation = env.step("seq 100000; false")[0]
    assert observation.startswith("1\n2\n") and observation.endswith("100000\n[exit code 1]")
    assert "characters left out" in observation and len(observation) < 200
    env.close()


def test_a_destroyed_repository_is_an_empty_patch_with_a_reason(env: SWEEnv) -> None:
    env.reset()
    env.step("rm -rf /repo/.git")
    _, _, terminated, _, info = env.step("submit")
    assert terminated and info["patch"] == "" and info["patch_problem"]


def test_a_container_that_dies_is_an_error_and_the_episode_can_start_again(env: SWEEnv, engine: Engine) -> None:
    env.reset()
    assert env.container is not None
    engine.remove(env.container.name)
    with pytest.raises(ContainerError):
        env.step("ls")
    with pytest.raises(ResetNeeded):
        env.step("ls")
    env.reset()
    assert env.step("cat code.py")[0] == "x = 1\n"


def test_the_seed_and_the_options_choose_the_instance(engine: Engine, instance: Instance) -> None:
    instances = [replace(instance, instance_id=str(number)) for number in range(10)]
    env = SWEEnv(instances, engine=engine, grade=False)
    seeded = [env.reset(seed=seed)[1]["instance_id"] for seed in (1, 2, 3, 1, 2, 3)]
    assert seeded[:3] == seeded[3:] and len(set(seeded)) > 1
    assert env.reset(options={"instance_id": "7"})[1] == {"instance_id": "7", "workdir": "/repo"}
    with pytest.raises(ConfigError, match="'11' among 10"):
        env.reset(options={"instance_id": "11"})
    env.close()


def test_bad_arguments_say_so(instance: Instance) -> None:
    with pytest.raises(DataError, match="no instances"):
        SWEEnv([])
    with pytest.raises(ConfigError, match="'nope'"):
        SWEEnv([instance], instance_id="nope")
    with pytest.raises(ConfigError, match="command_timeout_s"):
        SWEEnv([instance], command_timeout_s=0)
    with pytest.raises(ConfigError, match="render_mode"):
        SWEEnv([instance], render_mode="human")


def test_an_action_is_a_string(env: SWEEnv) -> None:
    env.reset()
    with pytest.raises(InvalidAction, match="int"):
        env.step(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("action", "reward", "status"), [("a - b/a + b", 1.0, "resolved"), ("a - b/a * b", 0.0, "unresolved")]
)
def test_the_reward_is_the_verdict(
    build_engine: Engine, tiny_row: dict[str, Any], action: str, reward: float, status: str
) -> None:
    tiny = instance_from_row(tiny_row, where="tiny")
    env = SWEEnv([tiny], engine=build_engine)
    env.reset()
    assert "a - b" in env.step("cat src/tinycalc/__init__.py")[0]
    env.step(f"sed -i 's/{action}/' src/tinycalc/__init__.py")
    _, given, terminated, _, info = env.step("submit")
    assert (given, terminated, info["verdict"].status) == (reward, True, status)
    env.close()


def test_an_invalid_verdict_is_no_reward(engine: Engine, instance: Instance) -> None:
    missing = replace(instance.tests, restore_paths=("tests",), restore_image="srl-swe/none:none")
    env = SWEEnv([replace(instance, tests=missing)], engine=engine)
    env.reset()
    env.step("echo 'x = 2' >code.py")
    with pytest.raises(ContainerError, match="could not be judged"):
        env.step("submit")
    with pytest.raises(ResetNeeded):
        env.step("ls")
    env.close()


EXPERT = ("cat code.py", "cd /tmp", "echo 'x = 2' >/repo/code.py", "submit")


@pytest.fixture
def expert(instance: Instance) -> Trajectory:
    steps = tuple(Step(thought="", action=action, observation="", exit_code=0) for action in EXPERT)
    return Trajectory(
        trajectory_id="t",
        instance_id=instance.instance_id,
        problem_statement=instance.problem_statement,
        steps=steps,
        patch="",
        source="tests",
        model="",
        resolved=True,
    )


def test_with_an_expert_the_reward_is_the_similarity_of_the_step(
    engine: Engine, instance: Instance, expert: Trajectory
) -> None:
    env = SWEEnv([instance], trajectories=[expert], engine=engine, grade=False)
    _, info = env.reset()
    assert info["expert_action"] == EXPERT[0]
    rewards = []
    for action, following in ((EXPERT[0], EXPERT[1]), ("cd /", EXPERT[2]), ("ls", EXPERT[3]), ("echo", None)):
        _, reward, _, _, info = env.step(action)
        rewards.append(reward)
        assert info["expert_action"] == following
    # Worked out by hand, 2M/T: the same; "cd /" of "cd /tmp": 2*4/11; "ls" and the third share no letter in order; …
    assert rewards[0] == 1.0 and rewards[1] == pytest.approx(8 / 11) and rewards[2] == 0.0
    assert env.step("true")[1] == 0.0
    _, reward, terminated, _, _ = env.step("submit")
    assert (reward, terminated) == (0.0, True)
    env.close()


def test_replay_goes_to_the_state_before_a_step(engine: Engine, instance: Instance, expert: Trajectory) -> None:
    env = SWEEnv([instance], trajectories=[expert], engine=engine, grade=False)
    env.reset()
    env.step("rm -rf /repo")
    for k, (workdir, content) in enumerate([("/repo", 1), ("/repo", 1), ("/tmp", 1), ("/tmp", 2)]):
        _, info = env.replay(k)
        assert (info["workdir"], info["expert_action"]) == (workdir, EXPERT[k])
        assert env.step("cat /repo/code.py")[0] == f"x = {content}\n"
    assert env.replay(0)[0] == "x should be 2" and env.replay(1)[0] == "x = 1\n"
    _, reward, _, _, _ = env.step(EXPERT[1])
    assert reward == 1.0
    for k in (-1, 4):
        with pytest.raises(ConfigError, match=r"k lies in 0…3"):
            env.replay(k)
    env.close()


def test_trajectories_that_do_not_fit_say_so(engine: Engine, instance: Instance, expert: Trajectory) -> None:
    with pytest.raises(DataError, match="two trajectories are for one"):
        SWEEnv([instance], trajectories=[expert, expert])
    with pytest.raises(DataError, match="none of the 1 instances has a trajectory"):
        SWEEnv([instance], trajectories=[replace(expert, instance_id="other")])
    with pytest.raises(DataError, match="no steps"):
        SWEEnv([instance], trajectories=[replace(expert, steps=())])
    env = SWEEnv([instance, replace(instance, instance_id="without")], trajectories=[expert], engine=engine)
    with pytest.raises(ConfigError, match="'without' among 1"):
        env.reset(options={"instance_id": "without"})
    plain = SWEEnv([instance], engine=engine)
    with pytest.raises(ConfigError, match="has no trajectory"):
        plain.replay(0)
    plain.close()
    env.close()


def test_what_the_next_reset_draws_is_opened_ahead(engine: Engine, instance: Instance) -> None:
    instances = [
        replace(
            instance, instance_id=str(number), environment=replace(instance.environment, activate=f"export N={number}")
        )
        for number in range(6)
    ]
    env = SWEEnv(instances, engine=engine, grade=False)
    env.reset(seed=3)
    for _ in range(3):
        time.sleep(2)  # for what goes on in the background
        waiting = _warm(engine)
        _, info = env.reset()
        assert env.container is not None and env.container.name in waiting
        assert env.step("echo $N")[0] == info["instance_id"] + "\n"
    env.close()
    assert _warm(engine) == []


def _warm(engine: Engine) -> list[str]:
    return [row.id for row in engine.list_containers(f"srl_swe.pid={os.getpid()}") if "-warm-" in row.id]


def test_escapes_are_stripped_by_option(engine: Engine, instance: Instance) -> None:
    env = SWEEnv([instance], engine=engine, grade=False, strip_escapes=True, render_mode="ansi")
    env.reset()
    assert env.render() == "x should be 2"
    assert env.step("printf '\\033[1;31mred\\033[0m \\033]0;title\\007plain\\n'")[0] == "red plain\n"
    assert str(env.render()).endswith("\nred plain\n")
    env.close()
