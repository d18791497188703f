"""Rewards as pure functions: similarity of two actions, and what the format is worth.

Similarity is Ratcliff-Obershelp on the command strings, 2M/T, as `difflib.SequenceMatcher` gives it with
`autojunk=False` (arXiv 2510.25992, section 3.2; difflib's default drops frequent characters of longer
texts and is not used). It is not symmetric: the student's action comes first, the expert's second.
"""

import functools
import importlib
import logging
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher

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


@functools.cache
def backend() -> Similarity:
    """Choose difflib-fast (130 µs at 1,000 characters) where it equals difflib on a self-test, once per process.

    Where it is not installed or disagrees, a warning says so and the standard library serves.
    """
    try:
        candidate = _load_difflib_fast()
    except ImportError:
        found = "is not installed"
    else:
        if _agrees(candidate):
            return candidate
        found = "does not give difflib's values and is refused"
    logger.warning(
        "difflib-fast %s: similarity is computed by difflib, about 100 times slower; see srl-swe[train]", found
    )
    return difflib_similarity


def _load_difflib_fast() -> Similarity:
    ratio = importlib.import_module("difflib_fast").ratio

    def fast(student: str, expert: str) -> float:
        try:
            return float(ratio(student, expert))
        except UnicodeEncodeError:  # lone surrogates do not reach its native code
            return difflib_similarity(student, expert)

    return fast


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
