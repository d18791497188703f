"""What goes wrong with numbers and memory, said so that somebody can act on it.

Leaves out what is done about it: the run ends, and its last checkpoint stands.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from srl_swe.errors import DivergenceError, MemoryExhaustedError

_MEMORY_WORDS = ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory")
_SHOWN_IDS = 8


@contextmanager
def memory_explained(stage: str, sizes: Mapping[str, object], *, advice: str) -> Iterator[None]:
    """Turn a lack of memory in a stage into one message with the sizes in play and the options to turn.

    Raises:
        MemoryExhaustedError: the block ran out of memory, on the machine or on the accelerator.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if isinstance(error, MemoryExhaustedError) or not (
            known or any(w in str(error).lower() for w in _MEMORY_WORDS)
        ):
            raise
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MemoryExhaustedError(
            f"{stage} ran out of memory ({shown}): {reason}. To need less, {advice}, or use a smaller model; the last "
            "checkpoint is intact."
        ) from error


@contextmanager
def in_iteration(iteration: int) -> Iterator[None]:
    """Put the iteration into the message of a divergence."""
    try:
        yield
    except DivergenceError as error:
        raise DivergenceError(f"iteration {iteration}: {error}") from error


def require_finite(what: str, number: Tensor, example_ids: Sequence[str], *, learning_rate: float) -> None:
    """Check a loss or a gradient norm that came from these step examples, each id once or more.

    Raises:
        DivergenceError: it is not finite; the message names the examples.
    """
    if bool(torch.isfinite(number).all()):
        return
    ids = list(dict.fromkeys(example_ids))
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    raise DivergenceError(
        f"the {what} is {float(number.detach())} at learning rate {learning_rate:g}: training diverged on the step "
        f"examples {', '.join(ids[:_SHOWN_IDS])}{more}. The last checkpoint is intact; start again from it or from the "
        "model with a smaller learning rate, or with dtype float32."
    )
