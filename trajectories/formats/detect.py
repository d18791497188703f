"""Which published format a row is in, told by its content."""

from collections.abc import Mapping
from typing import Literal

from srl_swe.errors import DataError
from srl_swe.trajectories.formats.chat import read_messages, text_of

FormatName = Literal[
    "mini_swe_agent",
    "nebius_openhands",
    "nebius_swe_agent",
    "openhands",
    "swe_agent",
    "swe_gym_openhands_sampled",
    "swe_gym_openhands_sft",
    "swe_smith",
]

UNDERSTOOD = (
    "mini-swe-agent .traj.json (1, 1.1)",
    "nebius SWE-rebench-openhands-trajectories",
    "OpenHands output.jsonl (events of 2025, pairs and flat events of 2024)",
    "nebius SWE-agent-trajectories",
    "SWE-agent .traj (0.x, 1.x, demonstrations)",
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
    if _is_openhands(row):
        return "openhands"
    if _is_nebius_openhands(row):
        return "nebius_openhands"
    if _is_swe_agent(row):
        return "swe_agent"
    if _is_nebius_swe_agent(row):
        return "nebius_swe_agent"
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


def _is_openhands(row: Mapping[str, object]) -> bool:
    """Tell OpenHands' `history` of events from SWE-agent's of messages, which have roles."""
    history = row.get("history")
    if "history" not in row or "messages" in row or "trajectory" in row:
        return False
    first = history[0] if isinstance(history, list) and history else None
    first = first[0] if isinstance(first, list) and first else first
    if isinstance(first, Mapping):
        return ("action" in first or "observation" in first) and "role" not in first
    return any(field in row for field in ("instance", "instruction", "test_result", "metadata"))


def _is_nebius_openhands(row: Mapping[str, object]) -> bool:
    """Tell the data set's chat messages from SWE-agent's steps and from nebius' `ai` texts."""
    if "trajectory" not in row or "history" in row or "messages" in row:
        return False
    if "model_patch" in row or "trajectory_id" in row:
        return True
    trajectory = row["trajectory"]
    items = trajectory if isinstance(trajectory, list) else []
    return any(isinstance(item, Mapping) and item.get("role") in ("assistant", "tool") for item in items)


def _is_swe_agent(row: Mapping[str, object]) -> bool:
    """Tell SWE-agent's steps, which have an action and a thought, and its messages that carry an `action`."""
    if "messages" in row:
        return False
    for field in ("trajectory", "history"):
        value = row.get(field)
        items = [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
        if any("action" in item and ("thought" in item or "response" in item) for item in items):
            return True
    return "trajectory" in row and "history" in row and isinstance(row.get("info"), Mapping)


def _is_nebius_swe_agent(row: Mapping[str, object]) -> bool:
    if "trajectory" not in row or "history" in row or "messages" in row:
        return False
    if "generated_patch" in row:
        return True
    trajectory = row["trajectory"]
    items = trajectory if isinstance(trajectory, list) else []
    return any(isinstance(item, Mapping) and item.get("role") == "ai" and "text" in item for item in items)
