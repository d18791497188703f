"""One episode of the agent: what happened in it, and its files.

A finished episode becomes a trajectory file that reads as one of mini-swe-agent 1.1, and a line in
predictions.jsonl. Running episodes is left to `agent`.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from srl_swe.evaluation.predictions import PREDICTIONS_FILE, append_prediction, end_with_newline
from srl_swe.evaluation.results import file_name
from srl_swe.files import write_atomically
from srl_swe.types import HistoryPair, Instance, Message, Prediction, Step, Trajectory

TRAJECTORIES_FOLDER = "trajectories"
FORMAT = "mini-swe-agent-1.1"
SOURCE = "srl_swe"

ExitStatus = Literal["submitted", "step_limit", "malformed", "context", "time_limit"]

NO_COMMAND = "(no command: the answer was malformed)"
"""Stands for the action of a malformed answer in the history that later prompts show."""

# What mini-swe-agent calls the same ends, for tools that read its files.
_MINI_EXIT_STATUS: dict[ExitStatus, str] = {
    "submitted": "Submitted",
    "step_limit": "LimitsExceeded",
    "malformed": "FormatError",
    "context": "ContextWindowExceeded",
    "time_limit": "LimitsExceeded",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One completion and the answer to it."""

    completion: str
    """As the model wrote it."""
    step: Step | None
    """None = the completion was malformed."""
    observation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeResult:
    """A finished episode."""

    trajectory: Trajectory
    """Its steps leave out malformed answers."""
    exit_status: ExitStatus
    patch_problem: str
    """Why the work tree gave no patch; empty when it gave one."""
    turns: tuple[Turn, ...]
    num_malformed: int
    num_prompt_tokens: int
    num_completion_tokens: int
    duration_s: float

    @property
    def prediction(self) -> Prediction:
        """What the episode predicts; an episode that a limit ended predicts the work tree as it stands then."""
        return Prediction(
            instance_id=self.trajectory.instance_id,
            model_name_or_path=self.trajectory.model,
            model_patch=self.trajectory.patch,
        )


@dataclass(kw_only=True, slots=True, eq=False)
class Episode:
    """An episode in progress. It belongs to the agent's main thread, its environment to one thread at a time."""

    instance: Instance
    attempt: int
    """Counts from 1; an infrastructure failure begins the next one from nothing."""
    started: float = field(default_factory=time.monotonic)
    opened: bool = False
    turns: list[Turn] = field(default_factory=list)
    history: list[HistoryPair] = field(default_factory=list)
    num_malformed_in_a_row: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    ending: ExitStatus | None = None
    """Why the agent ends it; the environment's own reasons are not known beforehand."""

    def add_malformed(self, completion: str, observation: str) -> None:
        """Record an answer without a command."""
        self.turns.append(Turn(completion=completion, step=None, observation=observation))
        self.history.append(HistoryPair(action=NO_COMMAND, observation=observation))
        self.num_malformed_in_a_row += 1

    def add_step(self, completion: str, step: Step) -> None:
        """Record a command that ran."""
        self.turns.append(Turn(completion=completion, step=step, observation=step.observation))
        self.history.append(HistoryPair(action=step.action, observation=step.observation))
        self.num_malformed_in_a_row = 0

    def finish(self, *, model: str, patch: str, exit_status: ExitStatus, patch_problem: str = "") -> EpisodeResult:
        """Return the finished record."""
        steps = tuple(turn.step for turn in self.turns if turn.step)
        instance_id = self.instance.instance_id
        return EpisodeResult(
            trajectory=Trajectory(
                trajectory_id=f"{SOURCE}:{model}:{instance_id}",
                instance_id=instance_id,
                problem_statement=self.instance.problem_statement,
                steps=steps,
                patch=end_with_newline(patch),
                source=SOURCE,
                model=model,
                resolved=None,
            ),
            exit_status=exit_status,
            patch_problem=patch_problem,
            turns=tuple(self.turns),
            num_malformed=len(self.turns) - len(steps),
            num_prompt_tokens=self.num_prompt_tokens,
            num_completion_tokens=self.num_completion_tokens,
            duration_s=time.monotonic() - self.started,
        )


def write_episode(folder: Path, result: EpisodeResult, *, prompt: list[Message], config: dict[str, Any]) -> None:
    """Write the trajectory file, then the prediction: an episode with a prediction has both.

    `prompt` is the first prompt of the episode, `config` goes into the file as it is.
    """
    name = file_name(result.trajectory.instance_id)
    record = trajectory_record(result, prompt=prompt, config=config)
    write_atomically(folder / TRAJECTORIES_FOLDER / f"{name}.traj.json", json.dumps(record, indent=1) + "\n")
    append_prediction(folder / PREDICTIONS_FILE, result.prediction)


def trajectory_record(result: EpisodeResult, *, prompt: list[Message], config: dict[str, Any]) -> dict[str, Any]:
    """Return the episode in mini-swe-agent's form: thoughts as content, commands under `extra.actions`."""
    messages: list[dict[str, Any]] = [dict(message) for message in prompt]
    for turn in result.turns:
        messages.extend(_turn_messages(turn))
    exit_status = _MINI_EXIT_STATUS[result.exit_status]
    patch = result.trajectory.patch
    messages.append({"role": "exit", "content": patch, "extra": {"exit_status": exit_status, "submission": patch}})
    return {
        "trajectory_format": FORMAT,
        "instance_id": result.trajectory.instance_id,
        "info": {
            "exit_status": exit_status,
            "submission": patch,
            "model_stats": {
                "instance_cost": 0.0,
                "api_calls": len(result.turns),
                "prompt_tokens": result.num_prompt_tokens,
                "completion_tokens": result.num_completion_tokens,
            },
            "config": config,
            "srl_swe": {
                "exit_status": result.exit_status,
                "patch_problem": result.patch_problem,
                "num_malformed": result.num_malformed,
                "duration_s": round(result.duration_s, 3),
            },
        },
        "messages": messages,
    }


def _turn_messages(turn: Turn) -> list[dict[str, Any]]:
    response = {"text": turn.completion}
    if turn.step is None:
        return [
            {"role": "assistant", "content": turn.completion, "extra": {"actions": [], "response": response}},
            {"role": "user", "content": turn.observation, "extra": {"interrupt_type": "FormatError"}},
        ]
    step = turn.step
    # mini-swe-agent writes -1 where there is no exit code.
    code = -1 if step.exit_code is None else step.exit_code
    return [
        {
            "role": "assistant",
            "content": step.thought,
            "extra": {"actions": [{"command": step.action}], "response": response},
        },
        {
            "role": "user",
            "content": f"<returncode>{code}</returncode>\n<output>\n{step.observation}</output>",
            "extra": {"raw_output": step.observation, "returncode": code},
        },
    ]
