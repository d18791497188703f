"""How many tokens an iteration of training has, measured on real steps of a set: rows, trees, completions.

For plans made before a run. Leaves out the model; lengths are counted by a tokenizer, or guessed from characters.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from srl_swe.curation.lengths import Measure, completion_text
from srl_swe.curation.shared_prefixes import tree_sizes
from srl_swe.errors import DataError
from srl_swe.prompts import PromptLimits, render
from srl_swe.training.plan_workload import Workload, make_workload
from srl_swe.trajectories.store import read_manifest, read_steps
from srl_swe.types import StepExample

CHARS_PER_TOKEN = 3.2
"""Of prompts and completions under SmolLM2's tokenizer, measured on steps of real trajectories (3.22 and 3.21)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IterationLimits:
    """What a run takes into an iteration."""

    num_prompts: int
    rollouts_per_prompt: int
    max_prompt_tokens: int
    max_completion_tokens: int
    needs_target: bool
    """Whether the expert's completion is imitated (SFT): steps without a thought or with a longer one are dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnSteps:
    """Training steps in a random order, and how many the set has."""

    steps: tuple[StepExample, ...]
    num_examples: int


def draw_steps(data: Path, num_prompts: int) -> DrawnSteps:
    """Draw half as many again as an iteration has, as some may be too long; always the same ones of a set.

    Raises:
        DataError: there is no such set, or it has no training steps.
    """
    counts = read_manifest(data)["num_examples"]
    num_examples = int(counts["train"]) if isinstance(counts, dict) else 0
    if not num_examples:
        raise DataError(f"{data} has no training steps; see the drop reasons of the compilation")
    drawn = random.Random(0).sample(range(num_examples), min(num_prompts + num_prompts // 2, num_examples))
    place = {index: order for order, index in enumerate(drawn)}
    found = [(place[index], step) for index, step in enumerate(read_steps(data, "train")) if index in place]
    return DrawnSteps(
        steps=tuple(step for _, step in sorted(found, key=lambda pair: pair[0])), num_examples=num_examples
    )


def measure_iteration(
    drawn: DrawnSteps,
    measure: Measure,
    prompts: PromptLimits,
    limits: IterationLimits,
    *,
    watched: Callable[[Iterable[StepExample]], Iterable[StepExample]] = lambda steps: steps,
) -> Workload:
    """Measure the first steps that fit, as many as an iteration has.

    `watched` shows how far it is. Characters are turned into tokens.

    Raises:
        DataError: no step fits.
    """
    ratio = 1.0 if measure.unit == "tokens" else CHARS_PER_TOKEN
    usable: list[tuple[str, int]] = []
    num_seen = 0
    for step in watched(drawn.steps):
        if len(usable) == limits.num_prompts:
            break
        num_seen += 1
        prompt = measure.prompt_text(render(step.problem_statement, step.history, prompts))
        completion = completion_text(step.expert_thought, step.expert_action)
        size = round(measure.count([completion])[0] / ratio) + 1
        fits = measure.count([prompt])[0] / ratio <= limits.max_prompt_tokens
        if limits.needs_target:
            fits = fits and size <= limits.max_completion_tokens and bool(step.expert_thought.strip())
        if fits:
            usable.append((prompt, min(size, limits.max_completion_tokens)))
    if not usable:
        raise DataError(
            f"none of {len(drawn.steps)} steps fits into {limits.max_prompt_tokens} prompt tokens: raise "
            "--max-prompt-tokens, or show less with --history and --max-observation-chars"
        )
    sizes, trunk = tree_sizes([prompt for prompt, _ in usable], lambda text: measure.count([text])[0])
    num_steps = round(drawn.num_examples * len(usable) / num_seen)
    how = f"tokens of {measure.name}" if measure.unit == "tokens" else f"characters / {CHARS_PER_TOKEN} (assumed)"
    return make_workload(
        prompt_sizes=[max(round(size / ratio), 1) for size in sizes],
        trunk_tokens=max(round(trunk / ratio), 1),
        completion_sizes=[size for _, size in usable],
        rollouts_per_prompt=limits.rollouts_per_prompt,
        num_steps=num_steps,
        num_dropped=drawn.num_examples - num_steps,
        how=how,
    )
