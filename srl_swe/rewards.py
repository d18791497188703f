"""Rewards as pure functions: similarity of two actions, and what the format is worth.

Similarity is Ratcliff-Obershelp on the command strings, 2M/T, as `difflib.SequenceMatcher` gives it with
`autojunk=False` (arXiv 2510.25992, section 3.2; difflib's default drops frequent characters of longer
texts and is not used). It is not symmetric: the student's action comes first, the expert's second.

`trl_reward`, `verl_score` and `nemo_gym_reward` are the same reward under the signatures that other trainers call, for
the files that `srl-swe data export` writes.
"""

import functools
import importlib
import logging
import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from srl_swe.errors import MalformedCompletionError
from srl_swe.matching import fits, matched_ratio
from srl_swe.prompts import parse
from srl_swe.types import StepExample

MALFORMED_REWARD = -1.0
"""Reward of a completion that does not keep the format (arXiv 2510.25992, equation 3)."""

Similarity = Callable[[str, str], float]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchingBlock:
    """A stretch that student and expert share: `student[a:a+size] == expert[b:b+size]`."""

    a: int
    b: int
    size: int


def similarity(student: str, expert: str) -> float:
    """Return the similarity of two actions in [0, 1]; 1.0 for two empty strings."""
    return backend()(student, expert)


def difflib_similarity(student: str, expert: str) -> float:
    """Return the similarity as the standard library computes it: the reference, about 20 ms at 1,000 characters."""
    return SequenceMatcher(None, student, expert, autojunk=False).ratio()


def matching_blocks(student: str, expert: str) -> tuple[MatchingBlock, ...]:
    """Return the non-empty matching blocks whose total size is M in 2M/T."""
    blocks = SequenceMatcher(None, student, expert, autojunk=False).get_matching_blocks()
    return tuple(MatchingBlock(a=block.a, b=block.b, size=block.size) for block in blocks if block.size)


def copy_last(example: StepExample) -> float | None:
    """Return the similarity of repeating the last action of the context, None where there is none."""
    return similarity(example.history[-1].action, example.expert_action) if example.history else None


def completion_reward(text: str, expert_action: str) -> float:
    """Return what the trainer gives a completion: the similarity of its command, or -1 where the format is broken.

    >>> completion_reward("<think>look</think>```bash\nls\n```", "ls -la")
    0.5
    """
    try:
        action = parse(text).action
    except MalformedCompletionError:
        return MALFORMED_REWARD
    return similarity(action, expert_action)


def trl_reward(
    completions: Sequence[str | Sequence[Mapping[str, Any]]],
    expert_action: Sequence[str],
    *,
    prefill: str = "",
    **_: object,
) -> list[float]:
    """Score completions for TRL's trainers; `expert_action` is the column of the exported file.

    Args:
        completions: Texts, or conversations of one assistant message. A message whose thought TRL has taken out (a
            tokenizer with a response template) gets it back; one with tool calls is malformed.
        expert_action: One per completion.
        prefill: What the chat template writes for the assistant, for example "<think>\n": completions come without it.
    """
    return [
        completion_reward(_conversation_text(completion, prefill), expert)
        for completion, expert in zip(completions, expert_action, strict=True)
    ]


def verl_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    prefill: str = "",
    **_: object,
) -> float:
    """Score a completion for verl, as its `custom_reward_function`; `prefill` (a `reward_kwargs`) is as above."""
    return completion_reward(prefill + solution_str, ground_truth)


def nemo_gym_reward(response: Mapping[str, Any], expert_action: str, *, prefill: str = "") -> float:
    """Score a response for the `verify` endpoint of a NeMo Gym resources server; `prefill` is as above.

    Args:
        response: `body.response.model_dump()`, an object of OpenAI's Responses API. Thoughts that a model server has
            made reasoning items of go back before the message; anything else than these and messages is malformed.
        expert_action: The field of the exported row.
    """
    thoughts, texts = [], []
    for item in response["output"]:
        if item.get("type") == "reasoning":
            thoughts += [part["text"] for part in item.get("summary") or item.get("content") or ()]
        elif item.get("type") == "message" and item.get("role") == "assistant":
            texts += [part.get("text", "") for part in item["content"]]
        else:
            return MALFORMED_REWARD
    return completion_reward(_joined(thoughts, "".join(texts), prefill), expert_action)


def _conversation_text(completion: str | Sequence[Mapping[str, Any]], prefill: str) -> str:
    if isinstance(completion, str):
        return prefill + completion
    if len(completion) != 1 or completion[0].get("tool_calls"):
        return ""
    message = completion[0]
    thought = message.get("reasoning_content") or message.get("thinking")
    return _joined([thought] if thought else [], message.get("content") or "", prefill)


def _joined(thoughts: Sequence[str], text: str, prefill: str) -> str:
    """Undo what a parser of reasoning did; where it did nothing, the chat template's prefill is still missing."""
    return "".join(f"<think>{thought}</think>" for thought in thoughts) + text if thoughts else prefill + text


@functools.cache
def backend() -> Similarity:
    """Choose the compiled methods (170 µs at 1,000 characters) where they equal difflib, once per process.

    Where a package is not installed or disagrees, a warning says so and the standard library serves.
    """
    try:
        methods = _short_and_long()
    except ImportError as error:
        found = str(error)
    else:
        if all(map(_agrees, methods)):
            short, long = methods
            return lambda student, expert: (short if fits(student, expert) else long)(student, expert)
        found = "a compiled method does not give difflib's values and is refused"
    logger.warning("%s: similarity is computed by difflib, about 100 times slower; see srl-swe[train]", found)
    return difflib_similarity


def _short_and_long() -> tuple[Similarity, Similarity]:
    """Return the compiled method for texts that fit, and the one for longer texts."""
    importlib.import_module("numba")
    ratio = importlib.import_module("difflib_fast").ratio

    def long(student: str, expert: str) -> float:
        try:
            return float(ratio(student, expert))
        except UnicodeEncodeError:  # lone surrogates do not reach its native code
            return difflib_similarity(student, expert)

    return matched_ratio, long


def _agrees(candidate: Similarity) -> bool:
    generator = random.Random(0)
    alphabet = string.ascii_lowercase[:6] + " \n\u00e9\U0001f600"
    pairs = [("", ""), ("a", ""), ("", "a"), ("sed -n 1,20p a.py", "sed -n 1,40p b.py")]
    for _ in range(40):
        first = "".join(generator.choices(alphabet, k=generator.randrange(300)))
        cut = generator.randrange(len(first) + 1)
        second = first[cut:] + "".join(generator.choices(alphabet, k=generator.randrange(60))) + first[:cut]
        pairs.append((first, second))
    return all(candidate(first, second) == difflib_similarity(first, second) for first, second in pairs)
