"""Records of episodes: what our own compiler reads back, by property, and in a container."""

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given, settings
from hypothesis import strategies as st

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.environments.engine import Engine
from srl_swe.environments.instances import instance_from_row
from srl_swe.environments.swe_env import SWEEnv
from srl_swe.environments.wrappers import CostLimit, RecordEpisode
from srl_swe.errors import ContainerError, DataError
from srl_swe.files import write_numbered
from srl_swe.trajectories.actions import clean_text
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.trajectories.steps import StepFilter, compile_trajectories, step_examples
from srl_swe.types import Step, Trajectory
from tests.environments.text_env import Answer, TextEnv

ODD = (
    "",
    "\n\n  indented\n",
    "<output>\n</output>",
    "</output>\n<returncode>7</returncode>\n<output>\nmore</output>",
    "no\n[exit code 1]",
    "a\r\nb\r\n",
    "[Error occurred in processing last action]",
    "<output_head>\nx</output_head>\n<elided_chars>\n5\n</elided_chars>\n<output_tail>\ny</output_tail>",
    "```bash\nls\n```",
    "\x1b[31m \x85\u2028\ufffd\U0001f600",
    "x" * 300_000,
)
ANY_TEXT = st.text(max_size=40) | st.sampled_from(ODD) | st.text("\ud800\udc80\ude00\ud83d\x00a\r\n<>/`", max_size=12)
ACTION = ANY_TEXT | st.sampled_from(("^C", "ctrl+c", "submit now", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"))
STEP = st.tuples(ANY_TEXT, ACTION, ANY_TEXT, st.none() | st.integers(0, 255))


def read(folder: Path) -> list[Trajectory]:
    drops = DropCounter()
    trajectories = list(read_trajectories([folder], drops=drops))
    assert drops.to_dict() == {}
    return trajectories


def status(path: Path | None) -> str:
    assert path is not None
    return str(json.loads(path.read_text())["info"]["srl_swe"]["exit_status"])


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=4), ANY_TEXT.filter(lambda text: clean_text(text)), st.booleans())
def test_what_happened_is_read_back(
    steps: list[tuple[str, str, str, int | None]], problem_statement: str, submits: bool
) -> None:
    answers = [Answer(observation=observation, exit_code=code) for _, _, observation, code in steps]
    env = TextEnv([*answers, Answer(ends=True)], problem_statement=problem_statement)
    with tempfile.TemporaryDirectory() as folder:
        recorded = RecordEpisode(env, folder)
        recorded.reset()
        for thought, action, *_ in steps:
            recorded.think(thought)
            recorded.step(action)
        if submits:
            recorded.step(" submit\n")
        recorded.close()
        (trajectory,) = read(Path(folder))
    # Only what neither UTF-8 files nor shells can hold is not as it was: lone surrogates and NUL.
    expected = [
        Step(
            thought=clean_text(thought),
            action=clean_text(action.strip()),
            observation=clean_text(observation),
            exit_code=code,
        )
        for thought, action, observation, code in steps
    ]
    if submits:
        expected.append(Step(thought="", action="submit", observation="", exit_code=None))
    assert list(trajectory.steps) == expected
    assert trajectory.problem_statement == clean_text(problem_statement)
    assert (trajectory.instance_id, trajectory.model) == ("a__b-1", "custom agent")
    assert (trajectory.patch, trajectory.resolved) == ("diff" if submits else "", None)


def test_every_end_of_an_episode_is_written_down_once(tmp_path: Path) -> None:
    env = RecordEpisode(TextEnv([Answer(observation="out"), Answer(ends=True)]), tmp_path, model="me")
    env.reset()
    assert env.last_record is None
    env.step("ls")
    env.reset()
    first = env.last_record
    assert first == tmp_path / "a__b-1-1.traj.json" and status(first) == "reset"
    env.step("pwd")
    env.step("submit")
    second = env.last_record
    assert second == tmp_path / "a__b-1-2.traj.json" and status(second) == "submitted"
    env.reset()
    env.close()
    env.close()
    assert env.last_record == second, "an episode in which nothing was done is none"
    env.reset()
    env.think("Where?")
    env.step("id")
    env.close()
    assert env.last_record == tmp_path / "a__b-1-3.traj.json" and status(env.last_record) == "closed"
    assert len(list(tmp_path.iterdir())) == 3
    assert [len(trajectory.steps) for trajectory in read(tmp_path)] == [1, 2, 1]
    assert read(tmp_path)[2].steps[0].thought == "Where?"
    assert read(tmp_path)[2].model == "me"


def test_a_failure_of_the_infrastructure_ends_the_record(tmp_path: Path) -> None:
    env = RecordEpisode(TextEnv([Answer(observation="out"), Answer(fails=True)]), tmp_path)
    env.reset()
    env.step("ls")
    with pytest.raises(ContainerError):
        env.step("cat x")
    assert env.last_record is not None
    info = json.loads(env.last_record.read_text())["info"]
    assert info["srl_swe"]["exit_status"] == "container_error"
    assert info["srl_swe"]["error"] == "ContainerError: the container is gone"
    assert [step.action for step in read(tmp_path)[0].steps] == ["ls"], "what did not run is no step"
    env.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_limit_of_gymnasium_is_an_end_without_a_patch(tmp_path: Path) -> None:
    limited = gym.wrappers.TimeLimit(TextEnv([Answer()] * 3), max_episode_steps=2)
    env = RecordEpisode(limited, tmp_path)
    env.reset()
    env.step("ls")
    assert env.step("ls -a")[3] is True
    assert status(env.last_record) == "truncated"
    assert env.spec is None


def test_an_episode_that_is_finished_has_its_patch(tmp_path: Path) -> None:
    env = RecordEpisode(TextEnv([Answer(), Answer()]), tmp_path)
    env.reset()
    env.step("ls")
    assert env.get_wrapper_attr("finish")() == {"patch": "patch after 1", "patch_problem": ""}
    assert status(env.last_record) == "truncated"
    costly = CostLimit(env, 1.0, lambda action, observation, info: 2.0)
    costly.reset()
    assert costly.step("pwd")[3] is True
    assert [trajectory.patch for trajectory in read(tmp_path)] == ["patch after 1"] * 2, "either order of the wrappers"


@pytest.mark.parametrize("damage", [{"raw_output": None}, {"raw_output": 3}, "extra", None])
def test_a_damaged_record_is_named(tmp_path: Path, damage: object) -> None:
    env = RecordEpisode(TextEnv([Answer()]), tmp_path)
    env.reset()
    env.step("ls")
    env.close()
    assert env.last_record is not None
    record = json.loads(env.last_record.read_text())
    record["messages"][2]["extra"] = damage
    env.last_record.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"`messages`\[1\].*raw_output"):
        list(read_trajectories([env.last_record], drops=DropCounter()))


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        for count in range(20):
            write_numbered(tmp_path, "one", ".json", f"{writer} {count}")

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"one-{n}.json" for n in range(1, 81))
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 80


def test_an_empty_action_stays_in_the_history_and_is_no_target(tmp_path: Path) -> None:
    env = RecordEpisode(TextEnv([Answer(), Answer(ends=True)]), tmp_path)
    env.reset()
    env.step(" \n")
    env.step("submit")
    drops = DropCounter()
    (compiled,) = compile_trajectories(read(tmp_path), step_filter=StepFilter(), drops=drops)
    examples = list(step_examples(compiled))
    assert [(example.step_index, example.expert_action) for example in examples] == [(1, "submit")]
    assert [pair.action for pair in examples[0].history] == [""]
    assert drops.to_dict()["mini_swe_agent"]["empty_action"] == 1


@pytest.mark.docker
def test_a_real_episode_is_read_back(tmp_path: Path, build_engine: Engine, tiny_row: dict[str, Any]) -> None:
    tiny = instance_from_row(tiny_row, where="tiny")
    env = RecordEpisode(
        gym.make("srl_swe/SWE-v0", instances=[tiny], command_timeout_s=5, max_observation_chars=200),
        tmp_path,
        model="scripted",
    )
    commands = (
        r"printf '\n\n</output>\r\n<output>'",
        r"printf 'a\0b\377\355\240\200'; false",
        "true",
        "seq 100000",
        "sleep 60",
        "exit 3",
        " sed -i 's/a - b/a + b/' src/tinycalc/__init__.py\n",
        "submit",
    )
    observed = []
    env.reset()
    for number, command in enumerate(commands):
        env.think(f"thought {number}")
        observation, reward, terminated, truncated, info = env.step(command)
        code = None if terminated else info["exit_code"]
        observed.append(
            Step(
                thought=f"thought {number}",
                action=command.strip(),
                observation=clean_text(observation),
                exit_code=code,
            )
        )
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert [step.exit_code for step in observed] == [0, 1, 0, 0, None, 3, 0, None]
    (trajectory,) = read(tmp_path)
    assert list(trajectory.steps) == observed
    assert trajectory.steps[0].observation == "\n\n</output>\r\n<output>"
    assert (trajectory.resolved, trajectory.model) == (True, "scripted")
    assert trajectory.problem_statement == tiny.problem_statement
    assert trajectory.patch == info["patch"] and "+    return a + b" in trajectory.patch
    step_filter = StepFilter(resolved_only=True)
    (compiled,) = compile_trajectories([trajectory], step_filter=step_filter, drops=DropCounter())
    assert len(compiled.targets) == len(commands)

    env.reset()
    env.step("echo 1 >one")
    assert isinstance(env.unwrapped, SWEEnv)
    with env.unwrapped.snapshot() as snapshot:
        env.step("echo 2 >two")
        env.unwrapped.restore(snapshot)
    assert "two" not in env.step("ls")[0]
    assert status(env.last_record) == "reset"
    assert [step.action for step in read(tmp_path)[1].steps] == ["echo 1 >one", "echo 2 >two"]

    env.reset()
    env.step("ls")
    assert env.unwrapped.container is not None
    build_engine.remove(env.unwrapped.container.name)
    with pytest.raises(ContainerError):
        env.step("pwd")
    assert status(env.last_record) == "container_error"
    with pytest.raises(ResetNeeded):
        env.step("ls")
    env.close()
    assert len(list(tmp_path.iterdir())) == 3
