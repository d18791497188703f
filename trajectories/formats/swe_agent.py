"""SWE-agent's `.traj` files: 0.x (default commands, xml), 1.x, runs for SWE-smith, and demonstrations.

Source: SWE-agent/SWE-agent, `sweagent/agent/agents.py` (`get_trajectory_data`) and `trajectories/demonstrations/`; the
runs for SWE-smith are those of SWE-bench/SWE-smith.

A run holds `trajectory`: {action, observation, response, thought, state}. `state` is JSON text of the place *before*
the action in 0.x, an object of the place *after* it in 1.x. A demonstration holds `history` alone: messages with
`action` and `thought`; the messages there with `is_demo` were shown to the agent and are not its own.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import clean_text
from srl_swe.trajectories.formats.assemble import build_steps, find_problem_statement
from srl_swe.trajectories.formats.chat import text_of
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.trajectories.formats.reports import resolved_by_report
from srl_swe.trajectories.formats.swe_agent_turns import Record, record_turns
from srl_swe.trajectories.formats.swe_agent_window import Place, open_file_of, split_prompt
from srl_swe.types import Trajectory

SOURCE = "swe_agent"

_ISSUE_START, _ISSUE_END = "ISSUE:\n", "\nINSTRUCTIONS:\n"
_NO_MODELS = ("replay", "human", "human_thought", "instant_empty_submit")
"""SWE-agent's stand-ins for a model."""


def read_row(row: Mapping[str, object], *, path: Path, where: str, drops: DropCounter) -> Trajectory | None:
    """Read one file's document, or count in `drops` why it cannot be used.

    Raises:
        DataError: a field is not what the format says.
    """
    messages = _messages(row)
    config = _config(row)
    problem_statement = _problem_statement(messages, config)
    if problem_statement is None:
        drops.drop(SOURCE, Reason.NO_PROBLEM_STATEMENT, where)
        return None
    instance_id = _instance_id(row, config) or path.name.removesuffix(".json").removesuffix(".traj")
    info = _mapping(row.get("info"))
    records = _run_records(row, messages) if row.get("trajectory") else _message_records(messages)
    turns = record_turns(records, source=SOURCE, where=where, drops=drops)
    return Trajectory(
        trajectory_id="",
        instance_id=instance_id,
        problem_statement=problem_statement,
        steps=build_steps(turns, source=SOURCE, where=where, drops=drops),
        patch=_patch(_text(info, "submission")),
        source=SOURCE,
        model=_model(config),
        resolved=resolved_by_report(path, instance_id),
        exit_status=clean_text(_text(info, "exit_status")),
    )


def find_issue(prompt: str) -> str | None:
    """Return the problem statement that a prompt of SWE-agent holds, or None.

    >>> find_issue("Here's the issue text:\\nISSUE:\\nIt fails.\\n\\nINSTRUCTIONS:\\nSolve it.")
    'It fails.'
    """
    text = clean_text(prompt).replace("\r\n", "\n")
    start, end = text.find(_ISSUE_START), text.rfind(_ISSUE_END)
    if 0 <= start < end:
        return text[start + len(_ISSUE_START) : end].strip() or None
    return find_problem_statement(text)


def _run_records(row: Mapping[str, object], messages: Sequence[Mapping[str, object]]) -> list[Record]:
    recorded = row["trajectory"]
    if not isinstance(recorded, list):
        raise DataError(f"`trajectory` must be a list, found {type(recorded).__name__}")
    records = []
    # The first prompt says where the shell starts.
    before = next((place for _, place in _own_prompts(messages) if place != Place()), Place())
    for index, step in enumerate(recorded):
        name = f"`trajectory`[{index}]"
        if not isinstance(step, Mapping):
            raise DataError(f"{name} must be an object with `action` and `observation`, found {type(step).__name__}")
        state, place = step.get("state"), _place(step.get("state"))
        if isinstance(state, str) and place != Place():
            before, place = place, Place()
        observation = _required_text(step, "observation", name)
        shown, prompt = (None, Place()) if observation is None else split_prompt(observation)
        after = Place(
            open_file=prompt.open_file if place.open_file is None else place.open_file,
            working_dir=prompt.working_dir if place.working_dir is None else place.working_dir,
        )
        thought, action = _required_text(step, "thought", name) or "", _required_text(step, "action", name) or ""
        records.append(Record(thought=_thought(thought), action=action, observation=shown, before=before, after=after))
        before = Place()
    return records


def _message_records(messages: Sequence[Mapping[str, object]]) -> list[Record]:
    """Read the records of a demonstration from its messages."""
    records = []
    before = next((place for _, place in _own_prompts(messages) if place != Place()), Place())
    for index, message in enumerate(messages):
        action = _required_text(message, "action", f"`history`[{index}]")
        if message["role"] != "assistant" or message.get("is_demo") is True or action is None:
            continue
        answer = messages[index + 1] if index + 1 < len(messages) else None
        is_answered = answer is not None and answer["role"] in ("user", "tool")
        shown, after = split_prompt(_content(answer)) if answer is not None and is_answered else (None, Place())
        thought = _required_text(message, "thought", f"`history`[{index}]")
        thought = _content(message) if thought is None else thought
        records.append(Record(thought=_thought(thought), action=action, observation=shown, before=before, after=after))
        before = Place()
    return records


def _messages(row: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the messages, from `history` or from what the first step asked the model."""
    field, value = "history", row.get("history")
    recorded = row.get("trajectory")
    if value is None and isinstance(recorded, list) and recorded and isinstance(recorded[0], Mapping):
        field = "query" if recorded[0].get("query") is not None else "messages"
        value = recorded[0].get(field)
    if not isinstance(value, list):
        raise DataError(f"`{field}` must be a list of messages, found {type(value).__name__}")
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DataError(f"`{field}`[{index}] must be an object with a `role`, found {str(message)[:80]!r}")
    return value


def _content(message: Mapping[str, object]) -> str:
    content = message.get("content")
    if isinstance(content, str) and content.startswith("[{'type': 'text'"):
        # SWE-smith keeps the parts of a message as Python wrote them.
        try:
            content = ast.literal_eval(content)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return str(content)
    return text_of(content)


def _own_prompts(messages: Sequence[Mapping[str, object]]) -> list[tuple[str, Place]]:
    """Return the texts before the agent's first message that are no demonstration, each with the place it tells."""
    prompts = []
    for message in messages:
        if message["role"] == "user" and message.get("is_demo") is not True:
            prompts.append(split_prompt(_content(message)))
        if message["role"] == "assistant" and message.get("is_demo") is not True:
            break
    return prompts


def _problem_statement(messages: Sequence[Mapping[str, object]], config: Mapping[str, object]) -> str | None:
    told = _mapping(config.get("problem_statement")).get("text")
    if isinstance(told, str) and told.strip():
        return clean_text(told).replace("\r\n", "\n").strip()
    return next((issue for prompt, _ in _own_prompts(messages) if (issue := find_issue(prompt))), None)


def _instance_id(row: Mapping[str, object], config: Mapping[str, object]) -> str:
    """Return the id that the file tells; empty = it does not. `environment` is often only a name like "main"."""
    told = (row.get("instance_id"), _mapping(config.get("problem_statement")).get("id"), row.get("environment"))
    ids = [value for value in told if isinstance(value, str) and value]
    return next((value for value in ids if "__" in value), "")


def _config(row: Mapping[str, object]) -> Mapping[str, object]:
    config = row.get("replay_config")
    if isinstance(config, str):
        try:
            config = json.loads(config, strict=False)
        except (ValueError, RecursionError):
            return {}
    return _mapping(config)


def _model(config: Mapping[str, object]) -> str:
    model = _mapping(_mapping(config.get("agent")).get("model"))
    name = _text(model, "name") or _text(model, "model_name")
    return "" if name in _NO_MODELS else name


def _place(state: object) -> Place:
    if isinstance(state, str):
        try:
            state = json.loads(state, strict=False)
        except (ValueError, RecursionError):
            return Place()
    told = _mapping(state)
    open_file, working_dir = told.get("open_file"), told.get("working_dir")
    return Place(
        open_file=open_file_of(open_file) if isinstance(open_file, str) else None,
        working_dir=working_dir.strip() if isinstance(working_dir, str) else None,
    )


def _patch(text: str) -> str:
    """Undo what a terminal did to a patch: in SWE-agent 1.0 all its lines end with CR LF."""
    if text.count("\r\n") == text.count("\n"):
        text = text.replace("\r\n", "\n")
    return text.lstrip("\n")


def _thought(text: str) -> str:
    return text.removeprefix("DISCUSSION\n")


def _required_text(item: Mapping[str, object], field: str, name: str) -> str | None:
    """Return a text, or None where there is none.

    Raises:
        DataError: something else is there.
    """
    value = item.get(field)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{name}: `{field}` must be text or null, found {type(value).__name__}")
    return value


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _text(item: Mapping[str, object], field: str) -> str:
    value = item.get(field)
    return value if isinstance(value, str) else ""
