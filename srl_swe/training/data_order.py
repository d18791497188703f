"""Which step example comes next: a fresh seeded permutation per epoch, as a function of a counter.

The counter is all the state there is, so a resumed run draws exactly what the interrupted one would have.
"""

import hashlib
from collections.abc import Sequence

import torch

from srl_swe.training.samplers import mix_seed
from srl_swe.types import StepExample


def draw_indices(num_examples: int, *, drawn: int, count: int, seed: int) -> list[int]:
    """Return the indices of the draws `drawn` … `drawn + count - 1`, counted from the start of training."""
    permutations: dict[int, list[int]] = {}
    indices = []
    for draw in range(drawn, drawn + count):
        epoch, place = divmod(draw, num_examples)
        if epoch not in permutations:
            permutations[epoch] = _permutation(num_examples, mix_seed(seed, epoch))
        indices.append(permutations[epoch][place])
    return indices


def choose_subset(num_examples: int, *, count: int, seed: int) -> list[int]:
    """Return at most `count` indices, ascending, always the same ones for a seed."""
    return sorted(_permutation(num_examples, seed)[:count])


def fingerprint(examples: Sequence[StepExample]) -> str:
    """Return a hash over every field of the examples and their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr(example).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _permutation(num_examples: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(num_examples, generator=torch.Generator().manual_seed(seed)).tolist()
    return order
