"""One run in the encodings that SWE-smith and SWE-Gym publish it in: the same steps, and so one trajectory."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.trajectories.formats.chat import chat_turns
from srl_swe.types import Trajectory

Messages = list[dict[str, Any]]
ISSUE = "<pr_description>\nThe sum is wrong.\n</pr_description>"
RUNS = {
    "pandas-dev__pandas.95280573.pr_53652": 36,
    "pandas-dev__pandas.95280573.pr_53856": 16,
    "pydantic__pydantic.acb0f10f.pr_8316": 21,
}
"""SWE-agent's own files of three SWE-smith runs, and their steps."""


def xml_call(name: str, arguments: Mapping[str, object], wrapped: Callable[[str, object], bool]) -> str:
    lines = [f"<function={name}>"]
    for key, value in arguments.items():
        text = f"\n{value}\n" if wrapped(key, value) else str(value)
        lines.append(f"<parameter={key}>{text}</parameter>")
    return "\n".join([*lines, "</function>"])


def as_xml(message: Mapping[str, Any]) -> str:
    """SWE-smith's xml: editor texts stand on lines of their own."""
    calls = [
        xml_call(
            call["function"]["name"],
            json.loads(call["function"]["arguments"]),
            lambda key, _: key in ("old_str", "new_str", "file_text"),
        )
        for call in message.get("tool_calls") or []
    ]
    return "\n\n".join(text for text in [message["content"], *calls] if text)


def as_ticks(message: Mapping[str, Any]) -> str:
    return f"{message['thought']}\n\n```\n{message['action']}\n```"


def as_openhands_text(message: Mapping[str, Any]) -> str:
    """OpenHands' text for models without tool calls (SWE-Gym's SFT rows): texts of several lines are wrapped."""
    calls = [
        xml_call(
            call["function"]["name"],
            {key: value for key, value in json.loads(call["function"]["arguments"]).items() if value is not None},
            lambda _, value: isinstance(value, str) and "\n" in value,
        )
        for call in message.get("tool_calls") or []
    ]
    return "\n\n".join(text for text in [message["content"] or "", *calls] if text)


def recoded(messages: Sequence[Mapping[str, Any]], encode: Callable[[Mapping[str, Any]], str]) -> Messages:
    coded = []
    for message in messages:
        if message["role"] == "assistant":
            coded.append({"role": "assistant", "content": encode(message)})
            continue
        content = message["content"]
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        coded.append({"role": "user" if message["role"] == "tool" else message["role"], "content": text})
    return coded


def read(path: Path, rows: Sequence[object], drops: DropCounter | None = None) -> list[Trajectory]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_trajectories([path], drops=drops or DropCounter()))


@pytest.mark.parametrize("run", RUNS)
def test_the_three_encodings_of_a_real_run_are_one_trajectory(run: str, shared_data: Path, tmp_path: Path) -> None:
    document = json.loads((shared_data / "trajectories" / "swe_agent" / f"{run}.traj").read_text())
    messages = document["trajectory"][-1]["messages"][:-1]
    rows = [
        {"instance_id": run, "messages": json.dumps(coded), "traj_id": f"{run}.{name}"}
        for name, coded in (
            ("tool", messages),
            ("xml", recoded(messages, as_xml)),
            ("ticks", recoded(messages, as_ticks)),
        )
    ]
    tool, xml, ticks = (read(tmp_path / "x.jsonl", [row])[0] for row in rows)
    assert tool.steps == xml.steps == ticks.steps
    # One step fewer than calls: SWE-smith asks for a second submit, and keeps the first.
    assert len(tool.steps) == RUNS[run]
    assert tool.steps[-1].action == "submit"
    drops = DropCounter()
    assert len(read(tmp_path / "x.jsonl", rows, drops)) == 1
    assert drops.to_dict()["swe_smith"]["duplicate"] == 2


def test_a_published_row_is_the_run_of_swe_agents_file(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "trajectories"
    run = "pandas-dev__pandas.95280573.pr_53652"
    messages = json.loads((folder / "swe_agent" / f"{run}.traj").read_text())["trajectory"][-1]["messages"][:-1]
    (ours,) = read(tmp_path / "x.jsonl", [{"instance_id": run, "messages": messages}])
    (published,) = read_trajectories([folder / "samples" / "ft_xml_example.smallest_row.json"], drops=DropCounter())
    assert published.steps == ours.steps
    assert published.steps[0].action == (
        'find /testbed -type f -name "*.py" | grep -v "__pycache__" | grep -v "test_" | head -20'
    )
    assert published.steps[1].action == "edit view /testbed/pandas/core/indexes/base.py 6035 6050"


def test_the_samples_of_the_three_encodings_are_one_trajectory(shared_data: Path, tmp_path: Path) -> None:
    rows = []
    for name in ("tool", "xml", "ticks"):
        path = shared_data / "trajectories" / "samples" / f"derived_{name}.trimmed.json"
        drops = DropCounter()
        assert not list(read_trajectories([path], drops=drops))
        assert drops.to_dict() == {"swe_smith": {"no_instance_id": 1}}
        rows.append({**json.loads(path.read_text()), "instance_id": "pydantic__pydantic.acb0f10f.pr_8316"})
    drops = DropCounter()
    (trajectory,) = read(tmp_path / "x.jsonl", rows, drops)
    assert [step.action for step in trajectory.steps] == [
        'find /testbed -type f -name "*.py" | grep -i alias',
        "edit view /testbed/pydantic/alias_generators.py",
        "submit",
    ]
    assert drops.to_dict() == {"swe_smith": {"duplicate": 2}}


def test_swe_gyms_sft_text_is_the_same_run_as_its_tool_calls(shared_data: Path) -> None:
    num_steps = 0
    with (shared_data / "trajectories" / "swe_gym_openhands_sampled.jsonl").open() as lines:
        for line in lines:
            messages = json.loads(line)["messages"]
            coded = recoded(messages, as_openhands_text)
            for turn, other in zip(chat_turns(messages), chat_turns(coded), strict=True):
                names = [(call.name, _as_text(call.arguments)) for call in turn.calls]
                assert [(call.name, _as_text(call.arguments)) for call in other.calls] == names
                num_steps += len(names)
    assert num_steps == 649


def _as_text(arguments: Mapping[str, object] | None) -> dict[str, str]:
    """Text encodings know no numbers, and leave nulls out."""
    assert arguments is not None
    return {key: str(value) for key, value in arguments.items() if value is not None}


def test_the_sft_sample(shared_data: Path) -> None:
    drops = DropCounter()
    path = shared_data / "trajectories" / "samples" / "swe_gym_openhands_sft.derived.json"
    (trajectory,) = read_trajectories([path], drops=drops)
    assert (len(trajectory.steps), drops.to_dict()) == (21, {})
    assert trajectory.steps[0].action == "edit view /workspace/python__mypy__1.6 0 -1"
    assert (trajectory.resolved, trajectory.steps[-1].action) == (True, "submit")


texts = st.text(st.sampled_from("ab '\"\\$`\n\t-=<>é"), max_size=30) | st.sampled_from(
    ["```", "# A\n\n```\nx\n```\n\nb", "a\n\n```\n", "```\n\n```\n", "--old_str", "'''", "\n", "EOF"]
)


@given(old=texts.filter(bool), new=texts, line=st.integers(0, 9), thought=st.sampled_from(["", "Look:\n\n```\nx\n```"]))
def test_editor_texts_survive_each_encoding(old: str, new: str, line: int, thought: str) -> None:
    for action, arguments in (
        (
            f"str_replace_editor str_replace /a --old_str {quote(old)} --new_str {quote(new)}",
            {"command": "str_replace", "path": "/a", "old_str": old, "new_str": new},
        ),
        (
            f"str_replace_editor insert /a --new_str {quote(new)} --insert_line {line}",
            {"command": "insert", "path": "/a", "new_str": new, "insert_line": line},
        ),
        (
            f"str_replace_editor create /a --file_text {quote(new)}",
            {"command": "create", "path": "/a", "file_text": new},
        ),
    ):
        call = {"id": "1", "function": {"name": "str_replace_editor", "arguments": json.dumps(arguments)}}
        message = {"role": "assistant", "content": thought, "thought": thought, "action": action, "tool_calls": [call]}
        answer = {"role": "user", "content": "OBSERVATION:\nThe file /a has been edited."}
        expected = {key: str(value) for key, value in arguments.items()}
        for encode in (as_xml, as_ticks):
            (turn,) = chat_turns([*recoded([message], encode), answer])
            assert [_as_text(call.arguments) for call in turn.calls] == [expected]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("Exit due to cost limit\n\n```\n\n```", "exit_cost"),
        ("Exit due to context window\n\n```\n\n```", "exit_context"),
        (
            "Since we have successfully fixed the issue and verified it works, let's submit.\n\n```\nsubmit\n```",
            "exit_cost",
        ),
    ],
)
def test_how_a_run_ended(end: str, status: str, tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": ISSUE},
        {"role": "assistant", "content": "Look.\n\n```\nls\n```"},
        {"role": "user", "content": "OBSERVATION:\na.py"},
        {"role": "assistant", "content": end},
    ]
    drops = DropCounter()
    (trajectory,) = read(tmp_path / "x.jsonl", [{"instance_id": "o__n.abc.pr_1", "messages": messages}], drops)
    assert ([step.action for step in trajectory.steps], trajectory.exit_status) == (["ls"], status)
    assert drops.to_dict() == {"swe_smith": {"fabricated_submit": 1}}


def test_a_row_that_says_its_exit_status(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": ISSUE},
        {"role": "assistant", "content": "Look.\n\n```\nls\n```"},
        {"role": "user", "content": "OBSERVATION:\na.py"},
    ]
    row = {"instance_id": "o__n.abc.pr_1", "messages": json.dumps(messages), "exit_status": "exit_format"}
    assert [trajectory.exit_status for trajectory in read(tmp_path / "x.jsonl", [row])] == ["exit_format"]
