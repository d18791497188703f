"""An episode as a record in mini-swe-agent's form, 1.1: the one writer of `.traj.json` files.

Thoughts stand as content, commands under `extra.actions`, observations between `<returncode>` and `<output>` tags and,
exactly, under `extra.raw_output`. `srl_swe.trajectories.formats` reads the same steps back. Left out: what happened in
the episode (`wrappers.RecordEpisode`, `srl_swe.evaluation`) and the files' names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from srl_swe.types import Message, Step, VerdictStatus

FORMAT = "mini-swe-agent-1.1"
SUFFIX = ".traj.json"

ExitStatus = Literal[
    "submitted",
    "step_limit",
    "time_limit",
    "token_limit",
    "cost_limit",
    "malformed",
    "context",
    "agent_error",
    "truncated",
    "closed",
    "reset",
    "container_error",
]
"""Why an episode ended; "truncated" = at a limit that is not known, "closed" and "reset" = in the middle,
"agent_error" = by an error of the agent's own."""

# What mini-swe-agent calls the same ends, for tools that read its files.
_MINI_EXIT_STATUS: dict[ExitStatus, str] = {
    "submitted": "Submitted",
    "step_limit": "LimitsExceeded",
    "time_limit": "LimitsExceeded",
    "token_limit": "LimitsExceeded",
    "cost_limit": "LimitsExceeded",
    "malformed": "FormatError",
    "agent_error": "AgentError",
    "context": "ContextWindowExceeded",
    "truncated": "LimitsExceeded",
    "closed": "UserInterruption",
    "reset": "UserInterruption",
    "container_error": "ContainerError",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One answer of an agent, and what it read then."""

    step: Step | None
    """None = the completion was malformed."""
    observation: str
    completion: str | None = None
    """As the model wrote it; None = not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How an episode ended."""

    exit_status: ExitStatus
    patch: str = ""
    patch_problem: str = ""
    """Why the work tree gave no patch; empty when it gave one, or was not asked."""
    verdict: VerdictStatus | None = None
    """None = not graded."""
    error: str = ""
    """The failure of the infrastructure, or the error of the agent, that ended it."""


def trajectory_record(
    *,
    instance_id: str,
    prompt: Sequence[Message],
    turns: Sequence[Turn],
    ending: Ending,
    config: Mapping[str, Any],
    model_stats: Mapping[str, float],
    duration_s: float,
) -> dict[str, Any]:
    """Return a record that JSON can hold.

    `prompt` is the first one of the episode; its first user message is the problem statement in
    `srl_swe.prompts.ISSUE_TEMPLATE`. `config` goes into the record as it is.
    """
    messages: list[dict[str, Any]] = [dict(message) for message in prompt]
    for turn in turns:
        messages.extend(_turn_messages(turn))
    exit_status = _MINI_EXIT_STATUS[ending.exit_status]
    submission = {"exit_status": exit_status, "submission": ending.patch}
    messages.append({"role": "exit", "content": ending.patch, "extra": submission})
    ours: dict[str, Any] = {
        "exit_status": ending.exit_status,
        "patch_problem": ending.patch_problem,
        "num_malformed": sum(turn.step is None for turn in turns),
        "duration_s": round(duration_s, 3),
    }
    if ending.verdict is not None:
        ours["verdict"] = ending.verdict
    if ending.error:
        ours["error"] = ending.error
    return {
        "trajectory_format": FORMAT,
        "instance_id": instance_id,
        "info": {
            **submission,
            "model_stats": {"instance_cost": 0.0, "api_calls": len(turns), **model_stats},
            "config": dict(config),
            "srl_swe": ours,
        },
        "messages": messages,
    }


def to_json(record: Mapping[str, Any]) -> str:
    """Return the text of a record's file: ASCII, so that lone surrogates are readable by any JSON reader."""
    return json.dumps(record, indent=1) + "\n"


def _turn_messages(turn: Turn) -> list[dict[str, Any]]:
    response = {} if turn.completion is None else {"response": {"text": turn.completion}}
    if turn.step is None:
        return [
            {"role": "assistant", "content": turn.completion or "", "extra": {"actions": [], **response}},
            {"role": "user", "content": turn.observation, "extra": {"interrupt_type": "FormatError"}},
        ]
    step = turn.step
    # mini-swe-agent writes -1 where there is no exit code.
    code = -1 if step.exit_code is None else step.exit_code
    return [
        {
            "role": "assistant",
            "content": step.thought,
            "extra": {"actions": [{"command": step.action}], **response},
        },
        {
            "role": "user",
            "content": f"<returncode>{code}</returncode>\n<output>\n{step.observation}</output>",
            "extra": {"raw_output": step.observation, "returncode": code},
        },
    ]
