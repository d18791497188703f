"""Which steps an iteration samples, and how many at once: what earlier groups say about later ones. Pure.

Three things are remembered, all in the checkpoint: the share of groups that carried signal, the steps whose groups
were flat lately, and the steps that carried signal but were more than an iteration needed. Leaves out sampling.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from srl_swe.training.advantages import Signal
from srl_swe.training.data_order import draw_indices

KEEP_RATE_WEIGHT = 0.3
"""Share of the newest iteration in the average of the keep rate (ours; about three iterations are remembered)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatStep:
    """A step example whose last groups were flat."""

    index: int
    streak: int
    """Flat groups in a row."""
    passes: int
    """How many of its next draws are passed over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefillState:
    """What is known of the groups so far."""

    keep_rate: float = 1.0
    """Exponential average over iterations of kept / sampled groups."""
    flat: tuple[FlatStep, ...] = ()
    """Ascending by index."""
    surplus: tuple[int, ...] = ()
    """Indices that carried signal when an iteration already had enough; the next one begins with them."""
    num_sampled: int = 0
    """Groups sampled since the start: the number of the next group's seed."""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "RefillState":
        """Return what `dataclasses.asdict` made JSON of."""
        flat = tuple(FlatStep(**entry) for entry in record["flat"])
        return cls(**{**record, "flat": flat, "surplus": tuple(record["surplus"])})


FIRST_STATE = RefillState()


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The steps of one round."""

    indices: tuple[int, ...]
    drawn: int
    """Draws from the data order used up for it, those passed over included."""
    passed_over: int
    state: RefillState


def round_size(missing: int, *, keep_rate: float, max_oversampling: float, budget: int) -> int:
    """Return how many groups to sample so that `missing` of them can be expected to carry signal.

    Example: 6 missing at a keep rate of 0.4 are 15 groups; at most `missing * max_oversampling` and the budget.
    """
    expected = math.ceil(missing / max(keep_rate, 1 / max_oversampling) - 1e-9)
    return max(0, min(expected, math.floor(missing * max_oversampling), budget))


def choose_steps(state: RefillState, num_examples: int, *, drawn: int, count: int, seed: int) -> Choice:
    """Take `count` step examples: left-over ones first, then the data order without those that are passed over.

    It ends: every draw passed over uses up a pass, and nothing here grants new ones.
    """
    indices = list(state.surplus[:count])
    flat = {step.index: step for step in state.flat}
    position, passed_over = drawn, 0
    while len(indices) < count:
        for index in draw_indices(num_examples, drawn=position, count=count - len(indices), seed=seed):
            position += 1
            step = flat.get(index)
            if step is None or step.passes == 0:
                indices.append(index)
            else:
                flat[index] = replace(step, passes=step.passes - 1)
                passed_over += 1
    after = replace(
        state, flat=_ordered(flat), surplus=state.surplus[count:], num_sampled=state.num_sampled + len(indices)
    )
    return Choice(indices=tuple(indices), drawn=position - drawn, passed_over=passed_over, state=after)


def note_signals(
    state: RefillState, indices: Sequence[int], signals: Sequence[Signal], *, skip_after_flat: int, skip_epochs: int
) -> RefillState:
    """Remember what became of the groups of these steps.

    A flat group lengthens the step's streak; from `skip_after_flat` on the step is passed over `skip_epochs` times
    and then sampled again. A kept group ends the streak. An all-malformed group says something about the model,
    not the step.
    """
    flat = {step.index: step for step in state.flat}
    for index, signal in zip(indices, signals, strict=True):
        if signal == "kept":
            flat.pop(index, None)
        elif signal == "flat" and skip_after_flat:
            streak = flat[index].streak + 1 if index in flat else 1
            passes = skip_epochs if streak >= skip_after_flat else 0
            flat[index] = FlatStep(index=index, streak=streak, passes=passes)
    return replace(state, flat=_ordered(flat))


def note_iteration(state: RefillState, *, num_kept: int, num_sampled: int, surplus: Sequence[int]) -> RefillState:
    """Move the keep rate towards this iteration's, and put the steps it had too many of in front of the next."""
    keep_rate = (1 - KEEP_RATE_WEIGHT) * state.keep_rate + KEEP_RATE_WEIGHT * num_kept / num_sampled
    return replace(state, keep_rate=keep_rate, surplus=(*surplus, *state.surplus))


def _ordered(flat: Mapping[int, FlatStep]) -> tuple[FlatStep, ...]:
    return tuple(flat[index] for index in sorted(flat))
