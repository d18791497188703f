"""How many characters two texts share under Ratcliff-Obershelp, compiled to vector instructions.

Longest matching blocks are found row by row: `run[j]` is the length of the match that ends at the current character of
`a` and at `b[j]`. A row is one pass without branches over 16-bit numbers, so a processor does 16 or 32 cells at once,
and up to about 1,200 characters a side the quadratic method beats an index of substrings. Among equally long blocks
the first in `a`, then the first in `b`, counts, as in `difflib` (Python's documentation of `find_longest_match`).
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_CELLS = 1_500_000  # characters of one text times those of the other: above, an index is the faster method
_MAX_CHARS = 2**15  # two texts have at most 2**16 different characters then

_Codes = NDArray[np.uint16]


def fits(a: str, b: str) -> bool:
    """Whether `matched_ratio` takes these texts, and is the fast way for them."""
    return len(a) * len(b) <= _MAX_CELLS and max(len(a), len(b)) <= _MAX_CHARS


def matched_ratio(a: str, b: str) -> float:
    """Return `difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()` of texts that fit."""
    num_chars = len(a) + len(b)
    return 2.0 * _kernel()(*_codes(a, b)) / num_chars if num_chars else 1.0


def _codes(a: str, b: str) -> tuple[_Codes, _Codes]:
    """Return a number for each character, equal where the characters are."""
    try:
        first, second = (np.frombuffer(text.encode("latin-1"), np.uint8) for text in (a, b))
        return first.astype(np.uint16), second.astype(np.uint16)
    except UnicodeEncodeError:
        both = np.frombuffer((a + b).encode("utf-32-le", "surrogatepass"), np.uint32)
        numbers = np.unique(both, return_inverse=True)[1].astype(np.uint16)
        return numbers[: len(a)], numbers[len(a) :]


@functools.cache
def _kernel() -> Callable[[_Codes, _Codes], int]:
    """Compile, or load what an earlier process compiled."""
    njit: Any = importlib.import_module("numba").njit
    try:
        return njit(nogil=True, cache=True)(_count_matched)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to keep the compiled code in: each process compiles, for some seconds
        return njit(nogil=True)(_count_matched)  # type: ignore[no-any-return]


def _count_matched(a: _Codes, b: _Codes) -> int:
    """Return how many characters match. Sums are cast, because 16 bits that widen halve the speed."""
    none, one = np.uint16(0), np.uint16(1)
    rows = np.empty((2, b.size + 1), np.uint16)
    windows = np.empty((min(a.size, b.size) + 2, 4), np.int64)  # disjoint in both texts, so never more
    windows[0, 0], windows[0, 1], windows[0, 2], windows[0, 3] = 0, a.size, 0, b.size
    num_windows = 1
    num_matched = 0
    while num_windows > 0:
        num_windows -= 1
        a_start, a_end = windows[num_windows, 0], windows[num_windows, 1]
        b_start, b_end = windows[num_windows, 2], windows[num_windows, 3]
        num_cells = b_end - b_start
        text = b[b_start:b_end]
        previous, current = rows[0, : num_cells + 1], rows[1, : num_cells + 1]
        previous[:] = none
        current[0] = none
        size, a_match, b_match = 0, 0, 0
        for i in range(a_start, a_end):
            code = a[i]
            longest = none
            for j in range(num_cells):
                run = np.uint16(previous[j] + one) if text[j] == code else none
                current[j + 1] = run
                longest = max(longest, run)
            if longest > size:
                size = int(longest)
                a_match = i - size + 1
                for j in range(num_cells):
                    if current[j + 1] == longest:
                        b_match = b_start + j - size + 1
                        break
            previous, current = current, previous
        if size == 0:
            continue
        num_matched += size
        if a_start < a_match and b_start < b_match:
            windows[num_windows, 0], windows[num_windows, 1] = a_start, a_match
            windows[num_windows, 2], windows[num_windows, 3] = b_start, b_match
            num_windows += 1
        if a_match + size < a_end and b_match + size < b_end:
            windows[num_windows, 0], windows[num_windows, 1] = a_match + size, a_end
            windows[num_windows, 2], windows[num_windows, 3] = b_match + size, b_end
            num_windows += 1
    return num_matched
