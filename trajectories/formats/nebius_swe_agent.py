"""Rows of nebius/SWE-agent-trajectories: runs of SWE-agent 0.x as messages.

Source: the data set of that name, {instance_id, model_name, target, trajectory: [{role: system | user | ai, text,
mask}], exit_status, generated_patch, eval_logs}. `target` tells whether the instance was resolved. An `ai` message
with a false `mask` is not to be learned from (a demonstration): it is left out and counted, like all before the issue.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import clean_text
from srl_swe.trajectories.formats.assemble import build_steps
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.trajectories.formats.swe_agent import find_issue
from srl_swe.trajectories.formats.swe_agent_turns import Record, record_turns
from srl_swe.trajectories.formats.swe_agent_window import Place, split_prompt
from srl_swe.types import Trajectory

SOURCE = "nebius_swe_agent"

_DEMONSTRATION = "Here is a demonstration"
_FENCE = re.compile(r"^```(\S*)[ \t]*$", re.MULTILINE)
_EXIT = re.compile(r"\s*Exit due to\b")


def read_row(row: Mapping[str, object], *, path: Path, where: str, drops: DropCounter) -> Trajectory | None:
    """Read one row, or count in `drops` why it cannot be used.

    Raises:
        DataError: a field is not what the format says.
    """
    messages = _messages(row.get("trajectory"))
    start, problem_statement = _problem_statement(messages)
    if problem_statement is None:
        drops.drop(SOURCE, Reason.NO_PROBLEM_STATEMENT, where)
        return None
    instance_id = row.get("instance_id")
    if not isinstance(instance_id, str) or not instance_id:
        drops.drop(SOURCE, Reason.NO_INSTANCE_ID, where)
        return None
    resolved = row.get("target")
    if resolved is not None and not isinstance(resolved, bool):
        raise DataError(f"`target` must be true, false or null, found {resolved!r}")
    turns = record_turns(_records(messages, start, where, drops), source=SOURCE, where=where, drops=drops)
    return Trajectory(
        trajectory_id="",
        instance_id=instance_id,
        problem_statement=problem_statement,
        steps=build_steps(turns, source=SOURCE, where=where, drops=drops),
        patch=_text(row, "generated_patch"),
        source=SOURCE,
        model=_text(row, "model_name"),
        resolved=resolved,
        exit_status=clean_text(_text(row, "exit_status")),
    )


def _messages(value: object) -> list[Mapping[str, object]]:
    if not isinstance(value, list):
        raise DataError(f"`trajectory` must be a list of messages, found {type(value).__name__}")
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or message.get("role") not in ("system", "user", "ai"):
            raise DataError(
                f"`trajectory`[{index}] must have the `role` system, user or ai, found {str(message)[:80]!r}"
            )
        for field, kind in (("text", str), ("mask", bool)):
            found = message.get(field)
            if found is not None and not isinstance(found, kind):
                raise DataError(
                    f"`trajectory`[{index}]: `{field}` must be {'text' if kind is str else 'true or false'} or null, "
                    f"found {type(found).__name__}"
                )
    return value


def _problem_statement(messages: Sequence[Mapping[str, object]]) -> tuple[int, str | None]:
    """Return the problem statement, and the index of the message that holds it."""
    for index, message in enumerate(messages):
        text = _text(message, "text")
        if message["role"] == "user" and not text.startswith(_DEMONSTRATION) and (issue := find_issue(text)):
            return index, issue
    return 0, None


def _records(messages: Sequence[Mapping[str, object]], start: int, where: str, drops: DropCounter) -> list[Record]:
    records = []
    before = split_prompt(_text(messages[start], "text"))[1]
    for index, message in enumerate(messages):
        if message["role"] != "ai":
            continue
        place = f"{where}, message {index}"
        if message.get("mask") is False or index < start:
            drops.drop(SOURCE, Reason.MASKED, place)
            continue
        thought, action = split_text(_text(message, "text"))
        if action is None:
            is_exit = _EXIT.match(thought) is not None
            drops.drop(SOURCE, Reason.SCAFFOLD_EXIT if is_exit else Reason.MALFORMED_CALL, place)
            continue
        answer = messages[index + 1] if index + 1 < len(messages) else None
        shown, after = None, Place()
        if answer is not None and answer["role"] == "user":
            shown, after = split_prompt(_text(answer, "text"))
        records.append(Record(thought=thought, action=action, observation=shown, before=before, after=after))
        before = Place()
    return records


def split_text(text: str) -> tuple[str, str | None]:
    """Split what the model wrote into thought and action: the last fenced block that is in no other.

    The action is None where there is none. Words after the block belong to the thought, as SWE-agent has it.

    >>> split_text("DISCUSSION\\nLook.\\n```\\nls -a\\n```")
    ('Look.', 'ls -a')
    """
    text = text.replace("\r\n", "\n").removeprefix("DISCUSSION\n")
    opened: list[re.Match[str]] = []
    block = None
    for fence in _FENCE.finditer(text):
        if opened and not fence.group(1):
            start = opened.pop()
            block = block if opened else (start, fence)
        else:
            opened.append(fence)
    if block is None:
        return text.strip(), None
    thought = f"{text[: block[0].start()].strip()}\n\n{text[block[1].end() :].strip()}".strip()
    return thought, text[block[0].end() : block[1].start()].strip("\n")


def _text(item: Mapping[str, object], field: str) -> str:
    value = item.get(field)
    return value if isinstance(value, str) else ""
