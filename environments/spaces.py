"""A Gymnasium space of all strings, which its own `Text` with a finite alphabet is not; numbers for `info`."""

from typing import Any

import gymnasium as gym
from numpy.random import Generator


class UnicodeText(gym.Space[str]):
    """Every Python string of at most `max_length` characters.

    Samples are short words of lower-case letters: harmless as shell commands.
    """

    def __init__(self, max_length: int | None = None, *, seed: int | Generator | None = None) -> None:
        if max_length is not None and max_length < 1:
            raise ValueError(f"UnicodeText.max_length is {max_length}; expected at least 1, or None for no limit")
        self.max_length = max_length
        """Characters; None = no limit."""
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Strings have no fixed size."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Draw a word of one to eight letters; masks and probabilities are not supported."""
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText supports neither a mask nor probabilities")
        length = int(self.np_random.integers(1, min(8, self.max_length or 8) + 1))
        return "".join(chr(ord("a") + int(letter)) for letter in self.np_random.integers(0, 26, size=length))

    def contains(self, x: Any) -> bool:
        """Tell whether `x` is a string that is short enough."""
        return isinstance(x, str) and (self.max_length is None or len(x) <= self.max_length)

    def __repr__(self) -> str:
        return f"UnicodeText(max_length={self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((UnicodeText, self.max_length))


class ExitCode(int):
    """An exit code in an `info` whose next one may be None.

    A vector environment keeps plain numbers in an array of numbers, in which the None of a command that was ended at
    its time limit has no place: the step would fail, and an asynchronous vector environment then hangs when it is
    closed. Other objects, which this is to Gymnasium, are kept as they are.
    """
