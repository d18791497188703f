"""How long texts are, in tokens of a tokenizer or in characters, and how such lengths are distributed."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srl_swe.curation.survey import Survey
from srl_swe.errors import MalformedCompletionError, MissingExtraError, ModelError
from srl_swe.prompts import write
from srl_swe.types import Message

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How lengths are counted."""

    unit: str
    """"tokens" or "characters"."""
    name: str
    """The tokenizer; empty for characters."""
    count: Callable[[Sequence[str]], list[int]]
    """Lengths of texts, in order."""
    prompt_text: Callable[[Sequence[Message]], str]
    """The text of a prompt, as a model is given it."""
    num_end_of_turn: int
    """What the end of a completion adds to its text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """Lengths of one kind of text, sorted; empty texts are left out and counted."""

    name: str
    lengths: tuple[int, ...]
    num_empty: int = 0

    def quantile(self, share: float) -> int:
        """Return the smallest length that at least this share of the texts do not exceed; 0 where there is none.

        >>> Distribution(name="", lengths=(1, 2, 3, 10)).quantile(0.5)
        2
        """
        if not self.lengths:
            return 0
        # Rounded first: 0.95 * 20 is a little more than 19 in binary.
        return self.lengths[max(math.ceil(round(share * len(self.lengths), 9)), 1) - 1]

    @property
    def mean(self) -> float:
        """Return the mean length."""
        return statistics.fmean(self.lengths) if self.lengths else 0.0


def characters() -> Measure:
    """Count characters: what is known without a tokenizer. A prompt is its messages, an empty line between them."""
    return Measure(
        unit="characters",
        name="",
        count=lambda texts: [len(text) for text in texts],
        prompt_text=_joined,
        num_end_of_turn=0,
    )


def tokens_of(tokenizer_name: str) -> Measure:
    """Count tokens of a tokenizer: that of a model folder, or of a name on the hub.

    Raises:
        ModelError: there is none, or it cannot be loaded.
        MissingExtraError: transformers is not installed.
    """
    tokenizer = _load_tokenizer(tokenizer_name)

    def count(texts: Sequence[str]) -> list[int]:
        # Not `input_ids` of the whole batch at once: a list of Python integers takes thirty times the text's memory.
        lengths: list[int] = []
        for start in range(0, len(texts), 64):
            batch = list(texts[start : start + 64])
            lengths += map(len, tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"])
        return lengths

    def prompt_text(messages: Sequence[Message]) -> str:
        if not tokenizer.chat_template:
            return _joined(messages)
        text: str = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        return text

    return Measure(unit="tokens", name=_short(tokenizer_name), count=count, prompt_text=prompt_text, num_end_of_turn=1)


def length_distributions(survey: Survey, measure: Measure) -> tuple[Distribution, ...]:
    """Measure the sampled texts: problem statements, prompts, thoughts, actions, observations."""
    prompts = [measure.prompt_text(step.prompt) for step in survey.steps]
    return (
        _distribution("problem statement", survey.problem_statements, measure),
        _distribution("prompt", prompts, measure),
        _distribution("expert's thought", [step.thought for step in survey.steps], measure),
        _distribution("expert's action", [step.action for step in survey.steps], measure),
        _distribution("observation, uncut", [step.observation for step in survey.steps], measure),
    )


def completion_text(thought: str, action: str) -> str:
    """Return the expert's completion; thought and action one after the other where the format cannot say them."""
    try:
        return write(thought, action)
    except MalformedCompletionError:
        return f"{thought}\n{action}"


def _distribution(name: str, texts: Iterable[str], measure: Measure) -> Distribution:
    lengths = measure.count(list(texts))
    return Distribution(
        name=name, lengths=tuple(sorted(filter(None, lengths))), num_empty=sum(length == 0 for length in lengths)
    )


def _short(name: str) -> str:
    """Leave out where a model folder lies: the page may go to another machine."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _joined(messages: Sequence[Message]) -> str:
    return "\n\n".join(message["content"] for message in messages)


def _load_tokenizer(name: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(
            "counting tokens needs transformers: pip install 'srl-swe[train]', or leave out --tokenizer"
        ) from error
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"the tokenizer {name!r} cannot be loaded: {reason} Name a model folder with a tokenizer or a model on "
            "the hub, or leave out --tokenizer to count characters"
        ) from error
