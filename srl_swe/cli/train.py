"""`srl-swe train`: SFT and SRL on a compiled set of step examples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from srl_swe.errors import ConfigError
from srl_swe.prompts import PromptLimits
from srl_swe.training.config import TrainConfig
from srl_swe.trajectories.store import read_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCommand:
    """Train a model on step examples. Defaults are the paper's recipe (arXiv 2510.25992) on a cluster's scale.

    The run folder holds config.json, metrics.jsonl, checkpoints, `best` (on held-out steps) and `last`, both
    ordinary model folders. The same command goes on where it stopped, bit for bit on a CPU.
    """

    train: tyro.conf.OmitArgPrefixes[TrainConfig]
    prompts: tyro.conf.OmitArgPrefixes[PromptLimits] = field(default_factory=PromptLimits)


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(TrainCommand, prog="srl-swe train", args=list(arguments))
    if not command.train.data:
        raise ConfigError("say what to train on: --data FOLDER, written by `srl-swe data compile`")
    steps = Path(command.train.data)
    train_examples = list(read_steps(steps, "train"))
    validation_examples = list(read_steps(steps, "validation"))
    # Only now: the help and a wrong path answer without loading torch.
    from srl_swe.software_engineering import software_engineering
    from srl_swe.training.trainer import train

    result = train(command.train, train_examples, validation_examples, software_engineering(command.prompts))
    if result.initial_reward is not None and result.best_reward is not None:
        print(
            f"held-out mean reward: {result.initial_reward:.4f} before, {result.best_reward:.4f} at best "
            f"(iteration {result.best_iteration} of {result.iterations})"
        )
    print(f"models: {result.best_model or result.last_model} (best), {result.last_model} (last)")
    return 0
