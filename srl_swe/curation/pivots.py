"""Pivots: which steps of a profiled set are worth training on, and what a profile says of the set.

A pivot is a step on which the starting model's rewards vary and whose mean is low (PivotRL, arXiv 2603.21383). Pure
functions; imports no torch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from srl_swe.curation.profile_file import StepProfile
from srl_swe.errors import ConfigError, DataError
from srl_swe.types import StepExample

Spread = Literal["skipped", "all_malformed", "all_equal", "format_only", "similarity"]
Loss = Literal["not_profiled", "skipped", "no_spread", "mean_too_high"]
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PivotRule:
    """Which profiled steps are kept."""

    min_profile_std: float = 1e-4
    """A step is kept when the population std of its profiled rewards exceeds this, as min-reward-std for groups."""
    max_profile_mean: float | None = None
    """A step is kept when the mean of its profiled rewards, -1 for each malformed completion, is at most this, because
    PivotRL keeps steps with a low mean; default: no limit."""

    def __post_init__(self) -> None:
        if not 0 < self.min_profile_std < 1:
            raise ConfigError(f"min_profile_std must be a number in (0, 1), found {self.min_profile_std!r}")
        if self.max_profile_mean is not None and not -1 <= self.max_profile_mean <= 1:
            raise ConfigError(f"max_profile_mean must be a number in [-1, 1], found {self.max_profile_mean!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pivots:
    """The step examples that a rule keeps, in their order, and what it dropped why."""

    examples: tuple[StepExample, ...]
    dropped: Mapping[Loss, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileSummary:
    """What a profile says of a set."""

    spreads: Mapping[Spread, int]
    """Number of steps by where their spread comes from."""
    mean_quantiles: tuple[float, ...]
    """Of the mean rewards of the sampled steps, at QUANTILES; () when none was sampled."""
    num_kept: int
    """Steps that the rule keeps."""


def spread_of(step: StepProfile, min_std: float) -> Spread:
    """Say where the spread of a step's rewards comes from, if there is any above `min_std`.

    "similarity" means that its well-formed completions vary; the format may vary besides. Rewards [-1, 0.5, 0.5] are
    "format_only".
    """
    if step.skipped:
        return "skipped"
    if step.well_formed == 0:
        return "all_malformed"
    if step.std <= min_std:
        return "all_equal"
    return "similarity" if step.similarity_std > min_std else "format_only"


def loss_of(step: StepProfile | None, rule: PivotRule) -> Loss | None:
    """Say why a step is dropped; None = it is a pivot. `step` is None where the profile lacks it."""
    if step is None:
        return "not_profiled"
    if step.skipped:
        return "skipped"
    if step.std <= rule.min_profile_std:
        return "no_spread"
    if rule.max_profile_mean is not None and step.mean > rule.max_profile_mean:
        return "mean_too_high"
    return None


def select_pivots(examples: Sequence[StepExample], steps: Iterable[StepProfile], rule: PivotRule) -> Pivots:
    """Keep the step examples that the profile shows to be pivots.

    Raises:
        DataError: none is left.
    """
    by_id = {step.example_id: step for step in steps}
    losses = [loss_of(by_id.get(example.example_id), rule) for example in examples]
    kept = tuple(example for example, loss in zip(examples, losses, strict=True) if loss is None)
    dropped = Counter(loss for loss in losses if loss is not None)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise DataError(
            f"the profile leaves none of {len(examples)} step examples ({reasons or 'there are none'}). Profile more "
            "steps, raise max_profile_mean, or warm the model up by SFT and profile it again where most completions "
            "are malformed."
        )
    return Pivots(examples=kept, dropped=dropped)


def summarize(steps: Sequence[StepProfile], rule: PivotRule) -> ProfileSummary:
    """Count where the steps' spread comes from, and how many the rule keeps."""
    means = sorted(step.mean for step in steps if not step.skipped)
    return ProfileSummary(
        spreads=Counter(spread_of(step, rule.min_profile_std) for step in steps),
        mean_quantiles=tuple(means[round(share * (len(means) - 1))] for share in QUANTILES) if means else (),
        num_kept=sum(loss_of(step, rule) is None for step in steps),
    )
