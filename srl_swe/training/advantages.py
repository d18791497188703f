"""Group-relative advantages, and which groups carry a learning signal.

Pure Python on floats; nothing here knows of tokens or tensors. Source: arXiv 2510.25992, section 3
(A_i = (r_i - mean) / std over the group, dynamic sampling by the standard deviation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from srl_swe.types import Group

Signal = Literal["kept", "flat", "all_malformed", "invalid"]
"""The last: infrastructure left fewer than two of a group's episodes with a reward."""


def population_std(values: Sequence[float]) -> float:
    """Return the standard deviation that divides by n; 0.0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def group_advantages(rewards_G: Sequence[float], *, divide_by_std: bool = True) -> list[float]:
    """Return (reward - mean) / population std for each rollout of a group, or just reward - mean (Dr. GRPO).

    Example: [1, 0, 0, -1] has mean 0 and std sqrt(1/2), so the result is [sqrt 2, 0, 0, -sqrt 2], or [1, 0, 0, -1].

    Raises:
        ValueError: the rewards do not vary at all; such a group must not reach training.
    """
    std = population_std(rewards_G)
    if std == 0.0:
        raise ValueError(f"advantages need rewards that vary, found {list(rewards_G)}")
    mean = math.fsum(rewards_G) / len(rewards_G)
    return [(reward - mean) / (std if divide_by_std else 1.0) for reward in rewards_G]


def group_signal(group: Group, *, min_reward_std: float) -> Signal:
    """Say whether a group is trained on: its population std must exceed `min_reward_std`.

    The comparison is with a small number and not with 0, because equal rewards may differ by rounding.
    """
    if not any(rollout.reward_parts["well_formed"] for rollout in group.rollouts):
        return "all_malformed"
    rewards = [rollout.reward for rollout in group.rollouts]
    return "kept" if population_std(rewards) > min_reward_std else "flat"


def well_formed_similarities(group: Group) -> list[float]:
    """Return the similarities of the rollouts that kept the format."""
    return [r.reward_parts["similarity"] for r in group.rollouts if r.reward_parts["well_formed"]]


@dataclass(slots=True)
class SignalCounts:
    """What became of the groups sampled for one iteration."""

    kept: int = 0
    flat: int = 0
    all_malformed: int = 0
    format_only: int = 0
    """Kept groups whose well-formed rollouts do not vary: their whole signal is the format."""
    similarity_std_sum: float = 0.0
    """Over kept groups, the std of the similarities of the well-formed rollouts."""

    def add(self, group: Group, *, min_reward_std: float) -> Signal:
        """Count a group and return its signal."""
        signal = group_signal(group, min_reward_std=min_reward_std)
        setattr(self, signal, getattr(self, signal) + 1)
        if signal == "kept":
            similarity_std = population_std(well_formed_similarities(group))
            self.similarity_std_sum += similarity_std
            self.format_only += similarity_std <= min_reward_std
        return signal

    def metrics(self) -> dict[str, float]:
        """Return the counts as metrics; shares and means are over kept groups."""
        return {
            "groups/kept": self.kept,
            "groups/flat": self.flat,
            "groups/all_malformed": self.all_malformed,
            "groups/format_only_share": self.format_only / self.kept if self.kept else 0.0,
            "groups/similarity_std": self.similarity_std_sum / self.kept if self.kept else 0.0,
        }
