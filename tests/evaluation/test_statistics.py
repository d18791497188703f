"""Statistics against numbers from the literature or worked out by hand."""

import itertools
import math

import pytest

from srl_swe.errors import ConfigError
from srl_swe.evaluation.statistics import mcnemar_p_value, mean_interval, pass_at_k


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    # 2 * sum of C(n, i) for i up to the smaller count, over 2^n.
    [(0, 0, 1.0), (1, 8, 2 * (1 + 9) / 512), (0, 5, 2 / 32), (4, 4, 1.0), (10, 2, 2 * (1 + 12 + 66) / 4096)],
)
def test_mcnemar(first: int, second: int, expected: float) -> None:
    assert mcnemar_p_value(first, second) == pytest.approx(expected)
    assert mcnemar_p_value(second, first) == pytest.approx(expected)


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_resolved_sample() -> None:
    for num_samples, num_resolved in itertools.product(range(1, 7), range(7)):
        if num_resolved > num_samples:
            continue
        for k in range(1, num_samples + 1):
            subsets = list(itertools.combinations(range(num_samples), k))
            share = sum(any(index < num_resolved for index in subset) for subset in subsets) / len(subsets)
            assert pass_at_k(num_samples, num_resolved, k) == pytest.approx(share)


@pytest.mark.parametrize(("num_samples", "num_resolved", "k"), [(3, 1, 0), (3, 1, 4), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_of_nonsense(num_samples: int, num_resolved: int, k: int) -> None:
    with pytest.raises(ConfigError, match="pass@"):
        pass_at_k(num_samples, num_resolved, k)


def test_the_interval_of_a_difference() -> None:
    differences = [1] * 30 + [-1] * 10 + [0] * 60
    low, high = mean_interval(differences) or (math.nan, math.nan)
    # Normal approximation: 0.2 +- 1.96 * sqrt((0.4 - 0.04) / 100).
    assert (low, high) == pytest.approx((0.0824, 0.3176), abs=0.02)
    assert mean_interval(differences) == (low, high)
    assert mean_interval([0] * 50) is None
    assert mean_interval([]) is None
