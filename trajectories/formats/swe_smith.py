"""Rows of SWE-smith's trajectories, in their tool, xml and ticks encodings.

Source: huggingface.co/datasets/SWE-bench/SWE-smith-trajectories, written by github.com/SWE-bench/SWE-smith,
swesmith/train/traj_mgr. A row without `instance_id` is not used: the split by instance needs it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import clean_text
from srl_swe.trajectories.formats.assemble import Turn, build_steps, find_problem_statement
from srl_swe.trajectories.formats.chat import chat_turns, read_messages, text_of
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.types import Trajectory

SOURCE = "swe_smith"

_FABRICATED = re.compile(
    r"\s*(?:Exit due to (?P<why>[\w ]+)|Since we have successfully fixed the issue and verified it works)"
)
"""SWE-smith's encoder turns the exit message of a run that hit its limit into a claim of success and a submit call
(swesmith/train/traj_mgr/utils.py)."""
_EXIT_STATUS = {"cost limit": "exit_cost", "total cost limit": "exit_total_cost", "context window": "exit_context"}


def read_row(row: Mapping[str, object], *, path: Path, where: str, drops: DropCounter) -> Trajectory | None:
    """Read one row, or count in `drops` why it cannot be used.

    Raises:
        DataError: a field is not what the format says.
    """
    messages = read_messages(row.get("messages"))
    prompts = [text_of(message.get("content")) for message in messages if message["role"] == "user"]
    problem_statement = find_problem_statement(prompts[0]) if prompts else None
    if problem_statement is None:
        drops.drop(SOURCE, Reason.NO_PROBLEM_STATEMENT, where)
        return None
    instance_id = row.get("instance_id")
    if not isinstance(instance_id, str) or not instance_id:
        drops.drop(SOURCE, Reason.NO_INSTANCE_ID, where)
        return None
    resolved = row.get("resolved")
    if resolved is not None and not isinstance(resolved, bool):
        raise DataError(f"`resolved` must be true, false or null, found {resolved!r}")
    turns, exit_status = _without_fabricated_end(chat_turns(messages), where, drops)
    return Trajectory(
        trajectory_id=_text(row, "traj_id"),
        instance_id=instance_id,
        problem_statement=problem_statement,
        steps=build_steps(turns, source=SOURCE, where=where, drops=drops),
        patch=_text(row, "patch"),
        source=SOURCE,
        model=_text(row, "model"),
        resolved=resolved,
        exit_status=clean_text(_text(row, "exit_status")) or exit_status,
    )


def _without_fabricated_end(turns: Sequence[Turn], where: str, drops: DropCounter) -> tuple[Sequence[Turn], str]:
    """Return the turns that the agent took, and the exit status (SWE-agent's word) that a last one stood for."""
    found = _FABRICATED.match(turns[-1].text) if turns else None
    if not found:
        return turns, ""
    drops.drop(SOURCE, Reason.FABRICATED_SUBMIT, where)
    # The encoder rewrites the message of the cost limit only.
    return turns[:-1], _EXIT_STATUS.get((found["why"] or "cost limit").strip(), "")


def _text(row: Mapping[str, object], field: str) -> str:
    value = row.get(field)
    return value if isinstance(value, str) else ""
