"""The statistics of an evaluation: intervals, a paired test, pass@k.

Intervals and tests are scipy's. Counting what goes into them is left to `report` and `comparison`.
"""

import math
from collections.abc import Sequence
from types import ModuleType

from srl_swe.errors import ConfigError, MissingExtraError

CONFIDENCE = 0.95
_RESAMPLES = 9999


def check_installed() -> None:
    """Raise MissingExtraError where scipy is not installed."""
    _scipy_stats()


def wilson_interval(num_resolved: int, num_instances: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion; (0, 1) where nothing was asked for."""
    if num_instances == 0:
        return 0.0, 1.0
    test = _scipy_stats().binomtest(num_resolved, num_instances)
    interval = test.proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p_value(num_only_first: int, num_only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Of the pairs that differ, as many should favour either side if neither is better: a binomial test with 1/2.

    >>> round(mcnemar_p_value(1, 8), 6)
    0.039062
    """
    changed = num_only_first + num_only_second
    if changed == 0:
        return 1.0
    return float(_scipy_stats().binomtest(num_only_first, changed, 0.5).pvalue)


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of the mean of values, for example of paired differences.

    None where all values are equal: resampling says nothing then. The same seed gives the same interval.
    """
    if len(set(values)) < 2:
        return None
    import numpy

    found = _scipy_stats().bootstrap(
        (numpy.asarray(values, dtype=float),),
        numpy.mean,
        n_resamples=_RESAMPLES,
        batch=1000,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=numpy.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def pass_at_k(num_samples: int, num_resolved: int, k: int) -> float:
    """Return the unbiased estimate of resolving an instance with k samples, from `num_samples` of which some resolve.

    1 - C(n - c, k) / C(n, k), Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.

    >>> pass_at_k(4, 1, 2)
    0.5

    Raises:
        ConfigError: k is not between 1 and the number of samples, or more resolve than there are.
    """
    if not 1 <= k <= num_samples or not 0 <= num_resolved <= num_samples:
        raise ConfigError(f"pass@{k} of {num_samples} samples, {num_resolved} of them resolved: k must be 1 to samples")
    return 1 - math.comb(num_samples - num_resolved, k) / math.comb(num_samples, k)


def _scipy_stats() -> ModuleType:
    try:
        from scipy import stats  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise MissingExtraError("intervals and tests need scipy: pip install 'srl-swe[eval]'") from error
    module: ModuleType = stats
    return module
