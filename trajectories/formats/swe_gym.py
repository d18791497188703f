"""Rows of SWE-Gym's OpenHands trajectories: sampled ones (tool calls, verdicts) and SFT ones (messages only).

Source: huggingface.co/datasets/SWE-Gym/OpenHands-Sampled-Trajectories and OpenHands-SFT-Trajectories.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import clean_text
from srl_swe.trajectories.formats.assemble import build_steps, find_problem_statement
from srl_swe.trajectories.formats.chat import chat_turns, read_messages, text_of
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.types import Trajectory

SAMPLED = "swe_gym_openhands_sampled"
SFT = "swe_gym_openhands_sft"

_UPLOADED = re.compile(r"<uploaded_files>\s*(?:\S*/)?([^/\s]+)\s*</uploaded_files>")


def read_sampled_row(row: Mapping[str, object], *, path: Path, where: str, drops: DropCounter) -> Trajectory | None:
    """Read one row of SWE-Gym/OpenHands-Sampled-Trajectories, or count in `drops` why it cannot be used.

    Raises:
        DataError: a field is not what the format says.
    """
    return _read_row(row, SAMPLED, where, drops)


def read_sft_row(row: Mapping[str, object], *, path: Path, where: str, drops: DropCounter) -> Trajectory | None:
    """Read one row of SWE-Gym/OpenHands-SFT-Trajectories, or count in `drops` why it cannot be used.

    These rows carry no id and no verdict: all of them resolved their instance, and the id is made from the folder's
    name and the problem statement, so that runs on one instance share it.

    Raises:
        DataError: a field is not what the format says.
    """
    return _read_row(row, SFT, where, drops)


def _read_row(row: Mapping[str, object], source: str, where: str, drops: DropCounter) -> Trajectory | None:
    messages = read_messages(row.get("messages"))
    prompt = next((text_of(message.get("content")) for message in messages if message["role"] == "user"), "")
    problem_statement = find_problem_statement(prompt)
    if problem_statement is None:
        drops.drop(source, Reason.NO_PROBLEM_STATEMENT, where)
        return None
    instance_id = row.get("instance_id")
    resolved = row.get("resolved")
    if source == SFT:
        uploaded = _UPLOADED.search(prompt)
        folder = uploaded.group(1) if uploaded else "swe_gym"
        instance_id = f"{folder}-{hashlib.sha256(problem_statement.encode()).hexdigest()[:12]}"
        resolved = True
    if not isinstance(instance_id, str) or not instance_id:
        drops.drop(source, Reason.NO_INSTANCE_ID, where)
        return None
    if resolved is not None and not isinstance(resolved, bool):
        raise DataError(f"`resolved` must be true, false or null, found {resolved!r}")
    test_result = row.get("test_result")
    patch = test_result.get("git_patch") if isinstance(test_result, Mapping) else None
    run_id = row.get("run_id")
    run_id = run_id if isinstance(run_id, str) else ""
    return Trajectory(
        trajectory_id=f"{instance_id}:{run_id}" if run_id else "",
        instance_id=instance_id,
        problem_statement=problem_statement,
        steps=build_steps(chat_turns(messages), source=source, where=where, drops=drops),
        patch=patch if isinstance(patch, str) else "",
        source=source,
        model=run_id.split("_maxiter")[0],
        resolved=resolved,
        exit_status=clean_text(status) if isinstance(status := row.get("exit_status"), str) else "",
    )
