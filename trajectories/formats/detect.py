"""Which published format a row is in, told by its content."""

from collections.abc import Mapping
from typing import Literal

from srl_swe.errors import DataError
from srl_swe.trajectories.formats.chat import read_messages, text_of

FormatName = Literal["mini_swe_agent", "swe_gym_openhands_sampled", "swe_gym_openhands_sft", "swe_smith"]

UNDERSTOOD = (
    "mini-swe-agent .traj.json (1, 1.1)",
    "SWE-Gym OpenHands-Sampled-Trajectories",
    "SWE-Gym OpenHands-SFT-Trajectories",
    "SWE-smith-trajectories (tool, xml, ticks)",
)
"""Names of the formats, for messages."""

_TRAJECTORY_KEYS = ("messages", "trajectory", "history", "trajectory_format")


def looks_like_trajectory(row: object) -> bool:
    """Tell whether a row is somebody's trajectory at all: a report or a task instance is not."""
    return isinstance(row, Mapping) and any(key in row for key in _TRAJECTORY_KEYS)


def detect_format(row: Mapping[str, object]) -> FormatName | None:
    """Return the format of a row, or None when it is none that is understood."""
    if "messages" not in row or "trajectory" in row or "history" in row:
        return None
    if str(row.get("trajectory_format") or "").startswith("mini-swe-agent"):
        return "mini_swe_agent"
    try:
        messages = read_messages(row["messages"])
        texts = [(str(message["role"]), text_of(message.get("content"))) for message in messages]
    except DataError:
        # The row names the format by its other fields; its reader then tells what is wrong.
        if "run_id" in row or "test_result" in row:
            return "swe_gym_openhands_sampled"
        return "swe_smith" if "instance_id" in row else None
    if any(role == "exit" or text.startswith("<returncode>") for role, text in texts):
        return "mini_swe_agent"
    if any(role == "assistant" and "```mswea_bash_command" in text for role, text in texts):
        return "mini_swe_agent"
    if "run_id" in row or "test_result" in row:
        return "swe_gym_openhands_sampled"
    if any(role == "user" and text.startswith("EXECUTION RESULT of [") for role, text in texts):
        return "swe_gym_openhands_sft"
    answers = ("OBSERVATION:\n", "Observation: ")
    if any(role in ("user", "tool") and text.startswith(answers) for role, text in texts):
        return "swe_smith"
    if any(role == "assistant" and "<function=" in text for role, text in texts):
        return "swe_smith"
    return None
