"""A text environment without a container: what it answers is written down beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from srl_swe.environments.spaces import UnicodeText
from srl_swe.errors import ContainerError


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    observation: str = ""
    exit_code: int | None = 0
    ends: bool = False
    fails: bool = False


class TextEnv(gym.Env[str, str]):
    """Gives the next of its answers to whatever is done; `finish` counts how often it was called."""

    def __init__(self, answers: Sequence[Answer], *, problem_statement: str = "It fails.") -> None:
        self.action_space = UnicodeText()
        self.observation_space = UnicodeText()
        self._answers = answers
        self._problem_statement = problem_statement
        self.actions: list[str] = []
        self.num_finished = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.actions = []
        return self._problem_statement, {"instance_id": "a__b-1"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        answer = self._answers[len(self.actions)]
        if answer.fails:
            raise ContainerError("the container is gone")
        self.actions.append(action)
        info: dict[str, Any] = {"instance_id": "a__b-1", "exit_code": answer.exit_code}
        if answer.ends:
            info |= {"patch": "diff", "patch_problem": ""}
        return answer.observation, 0.0, answer.ends, False, info

    def finish(self) -> dict[str, Any]:
        self.num_finished += 1
        return {"patch": f"patch after {len(self.actions)}", "patch_problem": ""}
