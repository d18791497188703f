"""Rows of nebius/SWE-rebench-openhands-trajectories: OpenHands' conversations as chat messages with tool calls.

Source: the data set's card (huggingface.co/datasets/nebius/SWE-rebench-openhands-trajectories): {trajectory_id,
instance_id, repo, trajectory, tools, model_patch, exit_status, resolved, …}, CC-BY-4.0.
"""

from collections.abc import Mapping
from pathlib import Path

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import clean_text
from srl_swe.trajectories.formats.assemble import build_steps, find_problem_statement
from srl_swe.trajectories.formats.chat import chat_turns, read_messages, text_of
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.types import Trajectory

SOURCE = "nebius_openhands"


def read_row(row: Mapping[str, object], *, path: Path, where: str, drops: DropCounter) -> Trajectory | None:
    """Read one row, or count in `drops` why it cannot be used.

    Raises:
        DataError: a field is not what the format says.
    """
    messages = read_messages(row.get("trajectory"), "trajectory")
    prompt = next((text_of(message.get("content")) for message in messages if message["role"] == "user"), "")
    problem_statement = find_problem_statement(prompt)
    if problem_statement is None:
        drops.drop(SOURCE, Reason.NO_PROBLEM_STATEMENT, where)
        return None
    instance_id = row.get("instance_id")
    if not isinstance(instance_id, str) or not instance_id:
        drops.drop(SOURCE, Reason.NO_INSTANCE_ID, where)
        return None
    resolved = row.get("resolved")
    if resolved not in (None, 0, 1):
        raise DataError(f"`resolved` must be 0, 1, true, false or null, found {str(resolved)[:40]!r}")
    return Trajectory(
        trajectory_id=_text(row, "trajectory_id"),
        instance_id=instance_id,
        problem_statement=problem_statement,
        steps=build_steps(chat_turns(messages), source=SOURCE, where=where, drops=drops),
        patch=_text(row, "model_patch"),
        source=SOURCE,
        model=_text(row, "model"),
        resolved=None if resolved is None else bool(resolved),
        exit_status=clean_text(_text(row, "exit_status")),
    )


def _text(row: Mapping[str, object], field: str) -> str:
    value = row.get(field)
    return value if isinstance(value, str) else ""
