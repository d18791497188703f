"""One episode of the agent: what happened in it, and its files.

A finished episode becomes a trajectory file that reads as one of mini-swe-agent 1.1, and a line in
predictions.jsonl. The form of that file is left to `srl_swe.environments.recording`, playing to `independent`.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srl_swe.environments.recording import SUFFIX, Ending, ExitStatus, Turn, to_json, trajectory_record
from srl_swe.evaluation.predictions import PREDICTIONS_FILE, append_prediction, end_with_newline
from srl_swe.files import file_name, write_atomically
from srl_swe.types import HistoryPair, Instance, Message, Prediction, Step, Trajectory

TRAJECTORIES_FOLDER = "trajectories"
SOURCE = "srl_swe"


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
    cost: float = 0.0
    """Of the model's calls, in the currency of the prices."""
    error: str = ""
    """The agent's own error that ended it; empty when there was none."""

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
    """An episode in progress. It belongs to one thread at a time."""

    instance: Instance
    started: float = field(default_factory=time.monotonic)
    turns: list[Turn] = field(default_factory=list)
    history: list[HistoryPair] = field(default_factory=list)
    num_malformed_in_a_row: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    cost: float = 0.0

    def add_malformed(self, completion: str, shown: HistoryPair) -> None:
        """Record an answer without a command, and what later prompts show of it."""
        self.turns.append(Turn(completion=completion, step=None, observation=shown.observation))
        self.history.append(shown)
        self.num_malformed_in_a_row += 1

    def add_step(self, completion: str, step: Step) -> None:
        """Record a command that ran."""
        self.turns.append(Turn(completion=completion, step=step, observation=step.observation))
        self.history.append(HistoryPair(action=step.action, observation=step.observation))
        self.num_malformed_in_a_row = 0

    def finish(
        self, *, model: str, patch: str, exit_status: ExitStatus, patch_problem: str = "", error: str = ""
    ) -> EpisodeResult:
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
            cost=self.cost,
            error=error,
        )


def write_episode(folder: Path, result: EpisodeResult, *, prompt: list[Message], config: dict[str, Any]) -> None:
    """Write the trajectory file, then the prediction: an episode with a prediction has both.

    `prompt` is the first prompt of the episode, `config` goes into the file as it is.
    """
    record = trajectory_record(
        instance_id=result.trajectory.instance_id,
        prompt=prompt,
        turns=result.turns,
        ending=Ending(
            exit_status=result.exit_status,
            patch=result.trajectory.patch,
            patch_problem=result.patch_problem,
            error=result.error,
        ),
        config=config,
        model_stats={
            "prompt_tokens": result.num_prompt_tokens,
            "completion_tokens": result.num_completion_tokens,
            "instance_cost": result.cost,
        },
        duration_s=result.duration_s,
    )
    name = file_name(result.trajectory.instance_id)
    write_atomically(folder / TRAJECTORIES_FOLDER / f"{name}{SUFFIX}", to_json(record))
    append_prediction(folder / PREDICTIONS_FILE, result.prediction)
