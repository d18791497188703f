"""All that training knows of a domain: functions over contexts, completions and actions, and where it acts.

Leaves out what they do; `srl_swe.prompts` and `srl_swe.rewards` fill them in for software engineering.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from srl_swe.closing import Closing
from srl_swe.types import Completion, HistoryPair, Message, StepExample

OPTIONS_FILE = "srl_swe_domain.json"
"""In every model folder that training writes: the domain's options, for whoever acts with the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """How contexts become prompts, and how completions are read, written and scored."""

    render: Callable[[StepExample], list[Message]]
    """Context of a step example -> chat messages, the last one from the user."""
    parse: Callable[[str], Completion]
    """Completion text -> thought and action; raises MalformedCompletionError."""
    write: Callable[[str, str], str]
    """(thought, action) -> completion text: the target of SFT, and what `parse` reads back."""
    score: Callable[[str, str], float]
    """(student's action, expert's action), in this order -> similarity in [0, 1]."""
    options: Mapping[str, object] = field(default_factory=dict)
    """What decides the prompts, as JSON values: kept beside the model; a resumed run must have the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Acting:
    """Where and how the policy acts, for outcome RL."""

    open_environment: Callable[[str], gym.Env[str, str]]
    """Instance id -> an environment at the start of an episode on that instance, all its own.

    Raises ContainerError where infrastructure fails, as its `step` does: that is never a reward. The rewards of an
    episode's steps add up to its reward. At the end of an episode that was judged, info has its `verdict`.
    """
    last_action: str
    """Ends an episode and has it judged."""
    judge: Callable[[gym.Env[str, str]], tuple[str, float, bool, bool, dict[str, Any]]]
    """Ends an episode that has reached a limit and returns what `step` would: judged alike, but without a reward for
    an action, because the policy took none."""
    snapshot: Callable[[gym.Env[str, str]], Closing]
    """Keeps an environment as it is, until what it returns is closed; ContainerError as above."""
    restore: Callable[[Any], gym.Env[str, str]]
    """A snapshot that is not closed -> an environment that goes on from it, all its own; ContainerError as above."""
    answer_malformed: Callable[[str, bool], HistoryPair]
    """(what is wrong with an answer, whether it was cut off at the token limit) -> what later prompts show of it."""
