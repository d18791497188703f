"""Similarity: our backend, difflib-fast and difflib on the same pairs, values compared bit for bit.

Pairs are expert and student actions of the same length: edited copies (one character in ten replaced at random), and
stretches of a repository's real commands and files that have nothing to do with each other. One thread.

python benchmarks/rewards.py [NUM_PAIRS]
"""

import random
import string
import sys
import time
from pathlib import Path

import difflib_fast

from srl_swe.rewards import Similarity, backend, difflib_similarity


def edited_pairs(count: int, num_chars: int) -> list[tuple[str, str]]:
    """Return commands of about `num_chars` characters and edited copies of them."""
    generator = random.Random(0)
    alphabet = string.ascii_lowercase + "    /._-'\n"
    result = []
    for _ in range(count):
        expert = "".join(generator.choices(alphabet, k=num_chars))
        student = list(expert)
        for _ in range(num_chars // 10):
            student[generator.randrange(num_chars)] = generator.choice(alphabet)
        result.append(("".join(student), expert))
    return result


def unrelated_pairs(count: int, num_chars: int) -> list[tuple[str, str]]:
    """Return stretches of this project's own source text."""
    text = "".join(path.read_text() for path in sorted(Path(__file__).parents[1].glob("srl_swe/**/*.py")))
    generator = random.Random(0)
    starts = [
        (generator.randrange(len(text) - num_chars), generator.randrange(len(text) - num_chars)) for _ in range(count)
    ]
    return [(text[a : a + num_chars], text[b : b + num_chars]) for a, b in starts]


def seconds(similarity: Similarity, work: list[tuple[str, str]]) -> tuple[float, list[float]]:
    """Return the time and the values."""
    started = time.perf_counter()
    values = [similarity(student, expert) for student, expert in work]
    return time.perf_counter() - started, values


def main() -> None:
    """Print seconds and the ratio for lengths on both sides of the change of method."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    started = time.perf_counter()
    ours = backend()
    ours("compiled", "once")
    print(
        f"start (import and self-test; the first time on a machine it compiles): {time.perf_counter() - started:.1f} s"
    )
    for name, pairs in (("edited", edited_pairs), ("unrelated", unrelated_pairs)):
        for num_chars in (50, 200, 1000, 4000):
            work = pairs(max(8, count // max(1, num_chars // 1000) ** 2), num_chars)
            ours_s, values = seconds(ours, work)
            library_s, library_values = seconds(difflib_fast.ratio, work)
            difflib_s, difflib_values = seconds(difflib_similarity, work)
            assert values == difflib_values == library_values, "the values differ"
            print(
                f"{len(work)} {name} pairs of {num_chars} characters: {ours_s:.3f} s, "
                f"{1e6 * ours_s / len(work):.0f} µs a pair; times as long: difflib-fast {library_s / ours_s:.1f}, "
                f"difflib {difflib_s / ours_s:.0f}; values equal"
            )


if __name__ == "__main__":
    main()
