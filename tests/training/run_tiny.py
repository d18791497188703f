"""Run or resume a tiny training run in a process of its own: `python run_tiny.py MODEL OUTPUT METHOD [JSON]`.

The JSON holds further options."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from srl_swe.training.config import TrainConfig
from srl_swe.training.termination import Termination
from srl_swe.training.trainer import train
from srl_swe.types import Message, StepExample
from tests.training.tiny import DOMAIN, make_examples


def tiny_config(model: Path, output: Path, method: str, **changes: object) -> TrainConfig:
    """Ten iterations of four prompts, fast enough for a test and long enough to be killed."""
    options: dict[str, object] = {
        "model": str(model),
        "output": output,
        "method": method,
        "prompts_per_iteration": 4,
        "num_iterations": 10,
        "learning_rate": 1e-2,
        "rollouts_per_prompt": 4,
        "updates_per_iteration": 2,
        "max_prompt_tokens": 40,
        "max_completion_tokens": 12,
        "tokens_per_pack": 64,
        "cached_tokens": 1000,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        "validate_every": 4,
        "checkpoint_every": 2,
    }
    return TrainConfig(**(options | changes))  # type: ignore[arg-type]


def render_slowly(example: StepExample) -> list[Message]:
    """Leave time for a signal between any two iterations."""
    time.sleep(0.02)
    return DOMAIN.render(example)


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    model, output, method, *rest = arguments
    changes = json.loads(rest[0]) if rest else {}
    slow = replace(DOMAIN, render=render_slowly)
    with Termination() as termination:
        train(
            tiny_config(Path(model), Path(output), method, **changes),
            make_examples(20),
            make_examples(6, prefix="v"),
            slow,
            termination=termination,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
