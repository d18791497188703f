"""Similarity: our backend against difflib on the same pairs, values compared bit for bit.

python benchmarks/rewards.py [NUM_PAIRS]
"""

import random
import string
import sys
import time

from srl_swe.rewards import backend, difflib_similarity


def pairs(count: int, num_chars: int) -> list[tuple[str, str]]:
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


def main() -> None:
    """Print seconds and the ratio for two lengths."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    ours = backend()
    for num_chars in (200, 1000):
        work = pairs(count, num_chars)
        started = time.perf_counter()
        fast = [ours(student, expert) for student, expert in work]
        fast_s = time.perf_counter() - started
        started = time.perf_counter()
        reference = [difflib_similarity(student, expert) for student, expert in work]
        reference_s = time.perf_counter() - started
        assert fast == reference, "the values differ"
        print(
            f"{count} pairs of {num_chars} characters: ours {fast_s:.3f} s, difflib {reference_s:.3f} s, "
            f"ratio {reference_s / fast_s:.0f}, values equal"
        )


if __name__ == "__main__":
    main()
