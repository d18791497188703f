"""Every example runs, as a user starts it, on the tiny instance."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.environments.wrappers import CostLimit
from srl_swe.errors import ContainerError
from srl_swe.prompts import SYSTEM_PROMPT, render, write
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.types import HistoryPair, Trajectory
from tests.examples.chat_server import chat_server

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[2]
TINY = "srl-swe__tinycalc-1"
FIX = "sed -i 's/a - b/a + b/' src/tinycalc/__init__.py"
MARKER = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def run(name: str, *arguments: str | Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an example in a folder of its own; the package need not be installed."""
    return subprocess.run(
        [sys.executable, ROOT / "examples" / name, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def read(folder: Path) -> Trajectory:
    (trajectory,) = read_trajectories([folder], drops=DropCounter())
    return trajectory


@pytest.mark.parametrize("name", ["loop.py", "random_agent.py", "chat_agent.py", "mini_swe_agent.py"])
def test_help_explains_the_arguments(name: str, tmp_path: Path) -> None:
    outcome = run(name, "--help", folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "--instances" in outcome.stdout and "--instance-id" in outcome.stdout


def test_loop(instances_file: Path, tmp_path: Path) -> None:
    outcome = run(
        "loop.py", "--instances", instances_file, "--instance-id", TINY, "--actions", FIX, "submit", folder=tmp_path
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "add(2, 3) returns -1" in outcome.stdout and outcome.stdout.endswith("reward 1.0, resolved\n")


def test_random_agent(instances_file: Path, tmp_path: Path) -> None:
    arguments = ("--instances", instances_file, "--instance-id", TINY, "--num-steps", "8", "--seed", "3")
    outcomes = [run("random_agent.py", *arguments, "--record", str(n), folder=tmp_path) for n in (1, 2)]
    assert [outcome.returncode for outcome in outcomes] == [0, 0], outcomes[0].stderr
    assert outcomes[0].stdout.endswith("reward 0.0, unresolved: empty patch\n"), "its commands change nothing"
    first, second = read(tmp_path / "1"), read(tmp_path / "2")
    assert [step.action for step in first.steps] == [step.action for step in second.steps]
    assert len({step.action for step in first.steps}) > 5 and len(first.steps) == 10
    assert sum(step.exit_code == 0 for step in first.steps) > 5
    assert (first.model, first.patch, first.resolved) == ("random", "", False)


def test_chat_agent(instances_file: Path, tmp_path: Path) -> None:
    answers = [
        write("I look.", "cat src/tinycalc/__init__.py"),
        503,
        "I am not sure.",
        write("The sign is wrong.", FIX),
        write("It is fixed.", "submit"),
    ]
    with chat_server(answers) as server:
        arguments = ("--instances", instances_file, "--instance-id", TINY, "--model", "some/model")
        outcome = run(
            "chat_agent.py", *arguments, "--base-url", server.base_url, folder=tmp_path, OPENAI_API_KEY="secret"
        )
    assert outcome.returncode == 0, outcome.stderr
    assert f"{TINY}: resolved" in outcome.stdout and "malformed answer: Expected a <think>" in outcome.stdout
    assert server.keys == ["Bearer secret"] * 5
    assert {(request["model"], request["temperature"]) for request in server.requests} == {("some/model", 0.0)}
    prompts = [request["messages"] for request in server.requests]
    assert prompts[0] == render("add(2, 3) returns -1", ()) and prompts[0][0]["content"] == SYSTEM_PROMPT
    assert prompts[1] == prompts[2] and "<command>\ncat src/tinycalc/__init__.py" in prompts[1][1]["content"]
    assert "(no command: the answer was malformed)" in prompts[3][1]["content"]
    assert "Your answer was malformed: Expected a <think>" in prompts[3][1]["content"]
    trajectory = read(tmp_path / "runs" / "chat-agent")
    assert [(step.thought, step.action) for step in trajectory.steps] == [
        ("I look.", "cat src/tinycalc/__init__.py"),
        ("The sign is wrong.", FIX),
        ("It is fixed.", "submit"),
    ]
    assert (trajectory.model, trajectory.resolved) == ("some/model", True)
    pairs = [HistoryPair(action=step.action, observation=step.observation) for step in trajectory.steps[:1]]
    assert prompts[2] == render(trajectory.problem_statement, pairs), "what was recorded is what the model read"


@pytest.mark.parametrize(
    ("answers", "options", "words", "num_steps"),
    [
        (["no"], (), "not graded", 0),
        ([write("Again.", "echo a >>a")], ("--max-steps", "2"), "not graded", 2),
    ],
)
def test_chat_agent_ends_at_its_limits(
    instances_file: Path,
    tmp_path: Path,
    answers: list[str | int],
    options: tuple[str, ...],
    words: str,
    num_steps: int,
) -> None:
    with chat_server(answers) as server:
        arguments = ("--instances", instances_file, "--instance-id", TINY, "--model", "m", "--base-url")
        outcome = run("chat_agent.py", *arguments, server.base_url, *options, folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert words in outcome.stdout and len(server.requests) == (num_steps or 3)
    if num_steps:
        assert len(read(tmp_path / "runs").steps) == num_steps and read(tmp_path / "runs").patch.endswith("+a\n+a\n")


def test_chat_agent_says_what_the_endpoint_refused(instances_file: Path, tmp_path: Path) -> None:
    with chat_server([401]) as server:
        outcome = run(
            "chat_agent.py",
            "--instances",
            instances_file,
            "--model",
            "m",
            "--base-url",
            server.base_url,
            folder=tmp_path,
        )
    assert outcome.returncode == 1 and "HTTP 401" in outcome.stderr and "Traceback" not in outcome.stderr


def mini_answers(kind: str) -> list[dict[str, Any]]:
    """What mini-swe-agent's scripted models return, in text or as tool calls."""
    from minisweagent.models.test_models import make_output, make_toolcall_output

    turns = (
        ("THOUGHT: I look.", "cat src/tinycalc/__init__.py; cd src; false"),
        ("Wrong sign.", FIX.replace("src/", "")),
        ("Done.", MARKER),
    )
    answers = []
    for number, (thought, command) in enumerate(turns):
        if kind == "text":
            answers.append(make_output(thought, [{"command": command}], cost=0.5))
            continue
        action = {"command": command, "tool_call_id": f"call_{number}"}
        function = {"name": "bash", "arguments": json.dumps({"command": command})}
        call = {"id": action["tool_call_id"], "type": "function", "function": function}
        answers.append(make_toolcall_output(thought, [call], [action]))
    return answers


@pytest.mark.parametrize("kind", ["text", "tool calls"])
def test_mini_swe_agent(instances_file: Path, tmp_path: Path, kind: str) -> None:
    import yaml

    settings = yaml.safe_load((ROOT / "examples" / "mini_swe_agent.yaml").read_text())
    model_class = "DeterministicModel" if kind == "text" else "DeterministicToolcallModel"
    settings["model"] = {
        "model_class": f"minisweagent.models.test_models.{model_class}",
        "model_name": "scripted",
        "outputs": mini_answers(kind),
    }
    (tmp_path / "scripted.yaml").write_text(yaml.safe_dump(settings))
    arguments = ("--instances", instances_file, "--instance-id", TINY, "--config", tmp_path / "scripted.yaml")
    outcome = run("mini_swe_agent.py", *arguments, "--output", "out/episode.traj.json", folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.endswith(f"{TINY}: Submitted, resolved\n") and "+    return a + b" in outcome.stdout

    saved = json.loads((tmp_path / "out" / "episode.traj.json").read_text())
    assert saved["info"]["config"]["environment"]["cwd"] == "/testbed"
    assert "The repository is in /testbed." in saved["messages"][1]["content"]
    trajectory = read(tmp_path / "out")
    assert [(step.thought, step.exit_code) for step in trajectory.steps] == [
        ("I look.", 1),
        ("Wrong sign.", 0),
        ("Done.", None),
    ]
    assert trajectory.steps[0].observation.endswith("return 2 * a\n[exit code 1]")
    assert trajectory.steps[2].action == "submit"
    assert trajectory.instance_id == TINY and trajectory.problem_statement == "add(2, 3) returns -1"
    assert "+    return a + b" in trajectory.patch
    assert (trajectory.model, trajectory.resolved) == ("scripted", True)


def mini_agent(env: gym.Env[str, str], commands: list[str], **settings: Any) -> Any:
    from minisweagent.agents.default import DefaultAgent
    from minisweagent.models.test_models import DeterministicModel, make_output

    from srl_swe.environments.mini_swe_agent import MiniSweAgentEnvironment

    outputs = [make_output("", [{"command": command}]) for command in commands]
    templates = {"system_template": "", "instance_template": "{{task}} {{system}} {{cwd}}", "cost_limit": 0.0}
    return DefaultAgent(DeterministicModel(outputs=outputs), MiniSweAgentEnvironment(env), **(templates | settings))


@pytest.mark.parametrize(
    ("commands", "status", "reward"),
    [
        ([FIX, "git diff >/tmp/p; echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat /tmp/p"], "Submitted", 1.0),
        ([FIX, " submit"], "Submitted", 1.0),
        (["true", "false", MARKER], "Submitted", 0.0),
        (["true", f"{MARKER}; false", "true", "true"], "LimitsExceeded", 0.0),
    ],
)
def test_every_way_in_which_mini_swe_agent_ends(
    instances_file: Path, commands: list[str], status: str, reward: float
) -> None:
    env = gym.make("srl_swe/SWE-v0", instances=instances_file, instance_id=TINY, max_steps=4)
    problem_statement, _ = env.reset()
    agent = mini_agent(env, commands)
    outcome = agent.run(problem_statement)
    env.close()
    assert (outcome["exit_status"], agent.env.reward) == (status, reward)
    assert ("verdict" in outcome) == (status == "Submitted")
    assert ("return a + b" in outcome["submission"]) == (reward == 1.0)
    assert agent.messages[1]["content"] == "add(2, 3) returns -1 Linux /testbed"


def test_limits_and_failures_reach_mini_swe_agent(instances_file: Path) -> None:
    env = gym.make("srl_swe/SWE-v0", instances=instances_file, instance_id=TINY, command_timeout_s=1, grade=False)
    limited = CostLimit(env, 2.0, lambda action, observation, info: 1.0)
    problem_statement, _ = limited.reset()
    agent = mini_agent(limited, ["echo a >a; sleep 30", "pwd", "echo b >b"])
    outcome = agent.run(problem_statement)
    assert outcome["exit_status"] == "LimitsExceeded" and outcome["submission"].endswith("+a\n")
    timed_out = agent.messages[3]
    assert timed_out["extra"]["returncode"] == -1 and "ended at the time limit of 1 s" in timed_out["content"]

    limited.reset()
    agent = mini_agent(limited, ["true"])
    assert agent.env.execute({"command": "pwd"}, cwd="/tmp")["output"] == "/tmp\n"
    container = limited.get_wrapper_attr("container")
    container.engine.remove(container.name)
    with pytest.raises(ContainerError):
        agent.run(problem_statement)
    env.close()
