"""Two evaluations of the same instances, instance by instance.

What differs between the sets is said, or refused where the same id does not mean the same task. Printing is left to
the command line.
"""

from dataclasses import dataclass

from srl_swe.errors import DataError
from srl_swe.evaluation.record import EvaluationRecord, InstanceOutcome
from srl_swe.evaluation.statistics import mcnemar_p_value, mean_interval, wilson_interval

_JUDGED = ("resolved", "unresolved", "not predicted")
"""Not predicted counts as not resolved, as in the resolve rate; invalid and pending say nothing of the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What a paired comparison found; the difference is second minus first."""

    models: tuple[str, str]
    num_pairs: int
    num_both: int
    only_first: tuple[str, ...]
    """Instances that only the first resolves."""
    only_second: tuple[str, ...]
    reasons: dict[str, str]
    """Instance that only one resolves -> why the other does not."""
    rates: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Resolve rate over the pairs with its 95 % Wilson interval, of either side."""
    difference: float
    difference_low: float | None
    """95 % paired bootstrap interval; None where all pairs differ alike."""
    difference_high: float | None
    p_value: float
    """McNemar's exact test, two-sided."""
    unmatched_first: tuple[str, ...]
    """Asked for in the first evaluation only."""
    unmatched_second: tuple[str, ...]
    left_out: dict[str, str]
    """Asked for in both, and without a verdict in one of them -> why."""


def compare(first: EvaluationRecord, second: EvaluationRecord) -> Comparison:
    """Compare two evaluations over the instances that both judged.

    Raises:
        DataError: they have no instance in common, or instances of the same id are judged by different tests.
    """
    ours = {instance.instance_id: instance for instance in first.instances}
    theirs = {instance.instance_id: instance for instance in second.instances}
    common = [name for name in ours if name in theirs]
    _check_same_tasks(first, second, [name for name in common if ours[name].row != theirs[name].row], len(common))
    left_out = {name: reason for name in common if (reason := _why_left_out(ours[name], theirs[name]))}
    pairs = [
        (name, ours[name].outcome == "resolved", theirs[name].outcome == "resolved")
        for name in common
        if name not in left_out
    ]
    if not pairs:
        raise DataError(
            f"of {len(common)} instances in common, none has a verdict in both; run the evaluations to their end"
        )
    only_first = tuple(name for name, one, other in pairs if one and not other)
    only_second = tuple(name for name, one, other in pairs if other and not one)
    num_both = sum(one and other for _, one, other in pairs)
    interval = mean_interval([int(other) - int(one) for _, one, other in pairs])
    return Comparison(
        models=(first.model, second.model),
        num_pairs=len(pairs),
        num_both=num_both,
        only_first=only_first,
        only_second=only_second,
        reasons={
            name: loser[name].reason or loser[name].outcome
            for names, loser in ((only_first, theirs), (only_second, ours))
            for name in names
        },
        rates=(_rate(num_both + len(only_first), len(pairs)), _rate(num_both + len(only_second), len(pairs))),
        difference=(len(only_second) - len(only_first)) / len(pairs),
        difference_low=interval[0] if interval else None,
        difference_high=interval[1] if interval else None,
        p_value=mcnemar_p_value(len(only_first), len(only_second)),
        unmatched_first=tuple(name for name in ours if name not in theirs),
        unmatched_second=tuple(name for name in theirs if name not in ours),
        left_out=left_out,
    )


def _check_same_tasks(first: EvaluationRecord, second: EvaluationRecord, differing: list[str], num_common: int) -> None:
    splits = f"the first is of {first.split or 'an unnamed set'}, the second of {second.split or 'an unnamed set'}"
    if not num_common:
        raise DataError(f"the evaluations have no instance in common: {splits}")
    if differing:
        shown = ", ".join(differing[:5]) + (", …" if len(differing) > 5 else "")
        raise DataError(
            f"{len(differing)} of {num_common} instances in common are judged by different tests, images or scripts "
            f"({shown}): {splits}. Evaluate both on the same rows"
        )


def _why_left_out(one: InstanceOutcome, other: InstanceOutcome) -> str:
    return "; ".join(
        f"{instance.outcome} in the {which}{f' ({instance.reason})' if instance.reason else ''}"
        for which, instance in (("first", one), ("second", other))
        if instance.outcome not in _JUDGED
    )


def _rate(num_resolved: int, num_pairs: int) -> tuple[float, float, float]:
    return (num_resolved / num_pairs, *wilson_interval(num_resolved, num_pairs))
