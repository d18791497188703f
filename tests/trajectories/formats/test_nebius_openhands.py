"""nebius/SWE-rebench-openhands-trajectories, and damage to the real rows of every chat format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from srl_swe.errors import DataError
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.types import Trajectory
from tests.trajectories.mutations import mutated, read_or_refuse

DONE = (
    "\n[The command completed with exit code 0.]\n[Current working directory: /workspace/n]\n[Python interpreter: /p]"
    "\n[Command finished with exit code 0]"
)
WAITS = "\n[The command has no new output after 30 seconds. You may wait longer to see additional output.]"


def message(
    role: str, content: str, *calls: tuple[str, str, dict[str, object]], answers: str | None = None
) -> dict[str, Any]:
    tool_calls = [
        {"id": call_id, "function": {"name": name, "arguments": json.dumps(arguments)}}
        for call_id, name, arguments in calls
    ]
    return {"role": role, "content": content, "tool_calls": tool_calls or None, "tool_call_id": answers, "name": None}


def row_of(*messages: dict[str, Any], **fields: object) -> dict[str, Any]:
    issue = "<issue_description>\nThe sum is wrong.\n</issue_description>"
    return {
        "trajectory_id": "chatcmpl-1",
        "instance_id": "o__n-12",
        "repo": "o/n",
        "trajectory": [message("system", "Help."), message("user", issue), *messages],
        "tools": [],
        "model_patch": "diff --git a/a b/a",
        "exit_status": "submit",
        "resolved": 1,
        **fields,
    }


def read(tmp_path: Path, rows: Sequence[object], drops: DropCounter | None = None) -> list[Trajectory]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_trajectories([path], drops=drops or DropCounter()))


def test_a_row(tmp_path: Path) -> None:
    drops = DropCounter()
    row = row_of(
        message("assistant", "Look.", ("1", "execute_bash", {"command": "cd /workspace/n && ls", "is_input": "false"})),
        message("tool", f"a.py{DONE}", answers="1"),
        message("assistant", "", ("2", "task_tracker", {"command": "plan", "task_list": []})),
        message("tool", "Task list has been updated.", answers="2"),
        message("assistant", "", ("3", "think", {"thought": "It is add()."})),
        message("tool", "Your thought has been logged.", answers="3"),
        message("assistant", "", ("4", "str_replace_editor", {"command": "view", "path": "a.py"})),
        message("tool", "Here's the result of running `cat -n` on a.py:\n     1\tx", answers="4"),
        message("assistant", "", ("5", "execute_bash", {"command": "make", "timeout": 30})),
        message("tool", f"half{WAITS}", answers="5"),
        message("assistant", "", ("6", "execute_bash", {"command": "C-c", "is_input": "true"})),
        message("tool", f"^C{DONE}", answers="6"),
        message("assistant", "", ("7", "finish", {"message": "Fixed."})),
    )
    (trajectory,) = read(tmp_path, [row], drops)
    assert [(step.thought, step.action, step.observation, step.exit_code) for step in trajectory.steps] == [
        ("Look.", "cd /workspace/n && ls", "a.py", 0),
        (
            "It is add().",
            "edit view /workspace/n/a.py",
            "Here's the result of running `cat -n` on a.py:\n     1\tx",
            0,
        ),
        ("", "make", "half", None),
        ("Fixed.", "submit", "", None),
    ]
    assert (trajectory.trajectory_id, trajectory.instance_id) == ("chatcmpl-1", "o__n-12")
    assert (trajectory.resolved, trajectory.exit_status, trajectory.patch) == (True, "submit", "diff --git a/a b/a")
    assert trajectory.problem_statement == "The sum is wrong."
    assert drops.to_dict() == {"nebius_openhands": {"control_key": 1}}


@pytest.mark.parametrize(("value", "resolved"), [(0, False), (True, True), (None, None)])
def test_the_outcome(value: object, resolved: bool | None, tmp_path: Path) -> None:
    call = message("assistant", "", ("1", "execute_bash", {"command": "ls"}))
    row = row_of(call, resolved=value)
    row["trajectory"] = json.dumps(row["trajectory"])
    assert [trajectory.resolved for trajectory in read(tmp_path, [row])] == [resolved]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"resolved": "yes"}, "`resolved` must be 0, 1, true, false or null, found 'yes'"),
        ({"trajectory": 7}, "`trajectory` must be a list, found int"),
        ({"trajectory": "[{"}, "`trajectory` is text but not JSON"),
        ({"trajectory": [{"content": "x"}]}, r"`trajectory`\[0\] must be an object with a `role`"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, [row_of(**fields)])


def test_the_real_row(shared_data: Path) -> None:
    drops = DropCounter()
    path = shared_data / "trajectories" / "samples" / "nebius_swe_rebench_openhands.trimmed.json"
    (trajectory,) = read_trajectories([path], drops=drops)
    folder = "/workspace/tianocore__edk2-pytool-library__0.15"
    assert [(step.action, step.exit_code) for step in trajectory.steps] == [
        ("edit view /workspace", 0),
        (f"cd {folder} && pwd", 0),
    ]
    assert trajectory.steps[1].observation == folder
    assert (trajectory.resolved, trajectory.exit_status) == (True, "submit")
    assert trajectory.trajectory_id == "chatcmpl-eb27c5fe3baa10d5272928b4e016d84f"
    assert drops.to_dict() == {}


REAL_ROWS = (
    "samples/nebius_swe_rebench_openhands.trimmed.json",
    "samples/derived_tool.trimmed.json",
    "samples/derived_xml.trimmed.json",
    "samples/derived_ticks.trimmed.json",
    "samples/swe_gym_openhands_sft.derived.json",
    "samples/v2_toolcall.traj.json",
    "samples/v2_textbased.traj.json",
    "swe_gym_openhands_sampled.jsonl",
    "swe_smith.jsonl",
)


@pytest.mark.parametrize("name", REAL_ROWS)
def test_damaged_real_rows_are_read_or_refused(name: str, shared_data: Path, tmp_path: Path) -> None:
    text = (shared_data / "trajectories" / name).read_text()
    row = json.loads(min(text.splitlines(), key=len) if name.endswith(".jsonl") else text)
    if name.startswith("samples/derived"):
        row["instance_id"] = "o__n.abc.pr_1"

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged=mutated(row))
    def check(damaged: object) -> None:
        read_or_refuse(tmp_path / "x.jsonl", damaged)

    check()
