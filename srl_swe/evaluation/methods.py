"""Training methods compared: figures of their final models on the same held-out steps, with intervals.

A step's value under a method is its mean over the seeds; intervals are bootstraps over steps, and differences are
taken step by step. They say how much the choice of steps matters; the mean of each seed says how much the seed does.
Training and measuring are left to the command line.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from types import MappingProxyType

from srl_swe.errors import DataError
from srl_swe.evaluation.held_out import HeldOutStep
from srl_swe.evaluation.statistics import mean_interval, wilson_interval

START = "start"
"""The model that every method begins with, under the name that it has among the methods."""
CONTROL = "sft"
"""Imitation of the same steps: what a method that learns from rewards is to be held against."""

FIGURES: Mapping[str, Callable[[HeldOutStep], float]] = MappingProxyType(
    {
        "similarity": lambda step: step.similarity,
        "reward": lambda step: step.reward,
        "format_rate": lambda step: float(step.well_formed),
        "completion_tokens": lambda step: float(step.completion_tokens),
    }
)
"""What is reported of an answer. completion_tokens has thought and action, one answer being one action."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What training took."""

    iterations: int = 0
    trained_tokens: int = 0
    """Completion tokens that had a part in the loss."""
    completion_tokens: int = 0
    """Sampled, or for SFT imitated."""
    tree_tokens: int = 0
    """Passed through training, shared prefixes once."""
    seconds: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        """Return both together."""
        return Spent(
            iterations=self.iterations + other.iterations,
            trained_tokens=self.trained_tokens + other.trained_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            tree_tokens=self.tree_tokens + other.tree_tokens,
            seconds=self.seconds + other.seconds,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """How many of the instances asked for one model resolves."""

    num_resolved: int
    num_instances: int
    num_invalid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredModel:
    """The final model of one method and seed, or the starting model."""

    method: str
    seed: int | None
    """None for the starting model."""
    steps: tuple[HeldOutStep, ...]
    spent: Spent = Spent()
    endings: tuple[str, ...] = ()
    """How each of its stages ended."""
    resolved: Resolved | None = None
    """None = it did not act."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over held-out steps."""

    mean: float
    low: float | None
    """95 % bootstrap interval over steps; None where all values are equal."""
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolveRate:
    """Over the episodes of all seeds."""

    rate: float
    low: float
    """95 % Wilson interval, as if the episodes of several seeds on one instance were independent."""
    high: float
    num_resolved: int
    num_episodes: int
    num_invalid: int
    by_seed: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodFigures:
    """What came of one method."""

    method: str
    seeds: tuple[int, ...]
    estimates: Mapping[str, Estimate]
    """By the names of FIGURES, each the mean over seeds and steps."""
    by_seed: Mapping[str, tuple[float, ...]]
    """The mean of each seed, in the order of `seeds`."""
    resolve_rate: ResolveRate | None
    spent: tuple[Spent, ...]
    """Of each seed."""
    endings: tuple[tuple[str, ...], ...]
    """Of the stages of each seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One method minus another, step by step."""

    method: str
    minus: str
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodComparison:
    """The starting model, every method, and the differences between them."""

    num_steps: int
    copy_last_similarity: float
    """Of proposing the expert's previous action again."""
    start: MethodFigures
    methods: tuple[MethodFigures, ...]
    differences: tuple[Difference, ...]
    """Each method minus the starting model, then the methods among themselves, those against the control first."""


def compare_methods(
    start: MeasuredModel, models: Sequence[MeasuredModel], *, copy_last_similarity: float
) -> MethodComparison:
    """Compare the models' answers to the same held-out steps.

    Raises:
        DataError: a model answered to other steps than the starting model did.
    """
    ids = [step.example_id for step in start.steps]
    for model in models:
        if [step.example_id for step in model.steps] != ids:
            raise DataError(
                f"{model.method}, seed {model.seed}, was measured on other held-out steps than the starting model; "
                "delete its held-out.json, and the same command measures again"
            )
    methods = list(dict.fromkeys(model.method for model in models))
    of = {START: [start], **{method: [model for model in models if model.method == method] for method in methods}}
    first = [method for method in methods if method == CONTROL]
    ordered = first + [method for method in methods if method != CONTROL]
    pairs = [(START, method) for method in methods] + list(combinations(ordered, 2))
    return MethodComparison(
        num_steps=len(ids),
        copy_last_similarity=copy_last_similarity,
        start=_figures(START, of[START]),
        methods=tuple(_figures(method, of[method]) for method in methods),
        differences=tuple(_difference(of[method], of[minus]) for minus, method in pairs),
    )


def _figures(method: str, models: Sequence[MeasuredModel]) -> MethodFigures:
    return MethodFigures(
        method=method,
        seeds=tuple(model.seed for model in models if model.seed is not None),
        estimates={name: _estimate(_over_seeds(models, name)) for name in FIGURES},
        by_seed={name: tuple(fmean(map(figure, model.steps)) for model in models) for name, figure in FIGURES.items()},
        resolve_rate=_resolve_rate([model.resolved for model in models if model.resolved is not None]),
        spent=tuple(model.spent for model in models),
        endings=tuple(model.endings for model in models),
    )


def _difference(models: Sequence[MeasuredModel], minus: Sequence[MeasuredModel]) -> Difference:
    def estimate(name: str) -> Estimate:
        pairs = zip(_over_seeds(models, name), _over_seeds(minus, name), strict=True)
        return _estimate([one - other for one, other in pairs])

    return Difference(
        method=models[0].method, minus=minus[0].method, estimates={name: estimate(name) for name in FIGURES}
    )


def _over_seeds(models: Sequence[MeasuredModel], name: str) -> list[float]:
    """Return each step's mean over the seeds."""
    figure = FIGURES[name]
    return [fmean(map(figure, steps)) for steps in zip(*(model.steps for model in models), strict=True)]


def _estimate(values: Sequence[float]) -> Estimate:
    interval = mean_interval(values)
    low, high = interval or (None, None)
    return Estimate(mean=fmean(values), low=low, high=high)


def _resolve_rate(found: Sequence[Resolved]) -> ResolveRate | None:
    if not found:
        return None
    num_resolved, num_episodes = sum(one.num_resolved for one in found), sum(one.num_instances for one in found)
    low, high = wilson_interval(num_resolved, num_episodes)
    return ResolveRate(
        rate=num_resolved / num_episodes,
        low=low,
        high=high,
        num_resolved=num_resolved,
        num_episodes=num_episodes,
        num_invalid=sum(one.num_invalid for one in found),
        by_seed=tuple(one.num_resolved / one.num_instances for one in found),
    )
