"""Dynamic sampling: groups without signal are replaced until an iteration has enough, or the refills are used up.

Serves groups of completions and groups of episodes alike. Leaves out how a group is sampled and which step examples
come next (`refill.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from srl_swe.training.advantages import Signal
from srl_swe.training.config import TrainConfig
from srl_swe.training.refill import RefillState, choose_steps, note_iteration, note_signals, round_size
from srl_swe.training.samplers import mix_seed

GroupOf = TypeVar("GroupOf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled(Generic[GroupOf]):
    """The groups of one iteration."""

    trained: tuple[GroupOf, ...]
    """At most `prompts_per_iteration`, in the order in which they were sampled."""
    surplus: tuple[GroupOf, ...]
    """Further groups with signal."""
    sampled: tuple[GroupOf, ...]
    """All of them, those without signal included."""
    drawn: int
    """Draws from the data order used up."""
    refill: RefillState
    metrics: dict[str, float]


def fill_iteration(
    num_examples: int,
    *,
    drawn: int,
    refill: RefillState,
    config: TrainConfig,
    sample: Callable[[Sequence[int], int], Sequence[GroupOf]],
    signal_of: Callable[[GroupOf], Signal],
) -> Filled[GroupOf]:
    """Sample rounds of groups; `sample` takes the indices of a round's step examples and its seed."""
    wanted = config.recipe.prompts_per_iteration
    budget = wanted * (1 + config.max_refills)
    kept: list[tuple[int, GroupOf]] = []
    sampled: list[GroupOf] = []
    start, rounds, passed_over, keep_rate = drawn, 0, 0, refill.keep_rate
    while len(kept) < wanted and rounds <= config.max_refills and len(sampled) < budget:
        count = round_size(
            wanted - len(kept),
            keep_rate=keep_rate,
            max_oversampling=config.max_oversampling,
            budget=budget - len(sampled),
        )
        seed = mix_seed(config.seed, refill.num_sampled)
        choice = choose_steps(refill, num_examples, drawn=drawn, count=count, seed=config.seed)
        groups = sample(choice.indices, seed)
        signals = [signal_of(group) for group in groups]
        refill = note_signals(
            choice.state,
            choice.indices,
            signals,
            skip_after_flat=config.skip_after_flat,
            skip_epochs=config.skip_epochs,
        )
        found = zip(choice.indices, groups, signals, strict=True)
        kept += [(index, group) for index, group, signal in found if signal == "kept"]
        sampled += groups
        drawn += choice.drawn
        passed_over += choice.passed_over
        rounds += 1
    surplus = kept[wanted:]
    refill = note_iteration(
        refill, num_kept=len(kept), num_sampled=len(sampled), surplus=[index for index, _ in surplus]
    )
    return Filled(
        trained=tuple(group for _, group in kept[:wanted]),
        surplus=tuple(group for _, group in surplus),
        sampled=tuple(sampled),
        drawn=drawn - start,
        refill=refill,
        metrics={
            "groups/refills": rounds - 1,
            "groups/passed_over": passed_over,
            "groups/keep_rate": refill.keep_rate,
        },
    )
