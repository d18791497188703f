"""`srl-swe data show`: one step example as a model sees it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from srl_swe.errors import ConfigError, DataError, MalformedCompletionError
from srl_swe.prompts import PromptLimits, render, write
from srl_swe.rewards import copy_last
from srl_swe.trajectories.store import read_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowConfig:
    """Show one step example: its prompt, the expert's answer, and what copying the last action would score."""

    steps: Annotated[Path, tyro.conf.Positional]
    """Folder that `srl-swe data compile` wrote."""
    index: int = 0
    """Which example, counted from 0 in the order of the file."""
    part: Literal["train", "validation"] = "train"
    limits: Annotated[PromptLimits, tyro.conf.arg(name="")] = field(default_factory=PromptLimits)


def show(config: ShowConfig) -> int:
    """Print one example."""
    if config.index < 0:
        raise ConfigError(f"index must be at least 0, not {config.index}")
    example = None
    position = -1
    for position, candidate in enumerate(read_steps(config.steps, config.part)):
        if position == config.index:
            example = candidate
            break
    if example is None:
        raise DataError(f"{config.steps}: part {config.part} has {position + 1} examples; there is no {config.index}")
    console = Console()
    for message in render(example.problem_statement, example.history, config.limits):
        console.print(Panel(Text(message["content"]), title=f"prompt: {message['role']}", title_align="left"))
    try:
        target = write(example.expert_thought, example.expert_action)
        title = "expert's completion"
    except MalformedCompletionError as error:
        target = example.expert_action
        title = f"expert's action ({error} It serves SRL, not SFT.)"
    console.print(Panel(Text(target), title=Text(title), title_align="left", style="green"))
    baseline = copy_last(example)
    shown = "no earlier action" if baseline is None else f"{baseline:.3f}"
    console.print(
        f"{example.example_id}: step {example.step_index} of {example.instance_id}; copying the last action: {shown}",
        markup=False, highlight=False,
    )  # fmt: skip
    return 0
