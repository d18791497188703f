"""Profile a tiny set in a process of its own, slowly enough to be killed: `python run_profile.py STEPS MODEL OUT`."""

import sys
import time
from dataclasses import replace
from pathlib import Path

from srl_swe.curation.profile import ProfileOptions, profile_set
from srl_swe.types import Message, StepExample
from tests.training.tiny import DOMAIN

OPTIONS = ProfileOptions(
    samples=4,
    max_prompt_tokens=40,
    max_completion_tokens=12,
    cached_tokens=1000,
    concurrent_rollouts=4,
    dtype="float32",
    device="cpu",
    threads=1,
)
"""Two steps a batch."""


def render_slowly(example: StepExample) -> list[Message]:
    """Leave time for a signal between any two batches."""
    time.sleep(0.1)
    return DOMAIN.render(example)


if __name__ == "__main__":
    steps, model, out = (Path(word) for word in sys.argv[1:])
    profile_set(steps, model, OPTIONS, domain=replace(DOMAIN, render=render_slowly), out=out)
