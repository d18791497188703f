"""The domain that the project is about: prompts and rewards of software engineering, as training sees them."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from srl_swe.errors import DataError
from srl_swe.prompts import PromptLimits, parse, render, write
from srl_swe.rewards import similarity
from srl_swe.training.domain import OPTIONS_FILE, Domain
from srl_swe.types import Message, StepExample


def software_engineering(limits: PromptLimits) -> Domain:
    """Return the domain with this much context in its prompts."""

    def render_example(example: StepExample) -> list[Message]:
        return render(example.problem_statement, example.history, limits)

    return Domain(render=render_example, parse=parse, write=write, score=similarity, options=asdict(limits))


def trained_limits(
    model: Path, *, history: int | Literal["all"] | None = None, max_observation_chars: int | None = None
) -> PromptLimits:
    """Return the limits that a model was trained with, so that it acts on prompts like those it knows.

    A model that was not trained here has none, and gets the defaults. What is given here wins.

    Raises:
        DataError: the record in the model's folder is damaged.
    """
    limits = PromptLimits()
    path = model / OPTIONS_FILE
    if path.is_file():
        try:
            limits = PromptLimits(**json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}: expected the options of the prompts, found {error}; delete it or train again"
            ) from error
    if history is not None:
        limits = replace(limits, history=None if history == "all" else history)
    if max_observation_chars is not None:
        limits = replace(limits, max_observation_chars=max_observation_chars)
    return limits
