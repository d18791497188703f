import math

import pytest

from srl_swe.training.advantages import SignalCounts, group_advantages, group_signal, population_std
from srl_swe.types import Group, Rollout


def make_group(*rewards: float) -> Group:
    rollouts = tuple(
        Rollout(
            prompt_ids=(1,),
            completion_ids=(2,),
            sampling_logprobs=(0.0,),
            text="",
            reward=reward,
            reward_parts={"similarity": max(reward, 0.0), "well_formed": float(reward >= 0)},
            stop_reason="stop",
        )
        for reward in rewards
    )
    return Group(example_id="e", rollouts=rollouts)


def test_population_std_divides_by_n() -> None:
    # Mean 0.5, squared deviations 0.25 and 0.25, so the variance is 0.25 and not 0.5.
    assert population_std([0.0, 1.0]) == 0.5
    assert population_std([0.3]) == 0.0


def test_advantages_by_hand() -> None:
    # Mean 0, variance (1 + 0 + 0 + 1) / 4 = 1/2.
    assert group_advantages([1, 0, 0, -1]) == pytest.approx([math.sqrt(2), 0, 0, -math.sqrt(2)])
    # Mean 0.25, deviations 0.75 and three times -0.25, variance (0.5625 + 3 * 0.0625) / 4 = 0.1875.
    assert group_advantages([1, 0, 0, 0]) == pytest.approx([0.75 / math.sqrt(0.1875)] + [-0.25 / math.sqrt(0.1875)] * 3)


def test_advantages_without_the_std_by_hand() -> None:
    assert group_advantages([1, 0, 0, 0], divide_by_std=False) == [0.75, -0.25, -0.25, -0.25]


def test_advantages_refuse_flat_groups() -> None:
    with pytest.raises(ValueError, match="vary"):
        group_advantages([0.5, 0.5])


@pytest.mark.parametrize(
    ("rewards", "signal"),
    [
        ((0.2, 0.4), "kept"),
        ((0.3, 0.3), "flat"),
        ((0.1 + 0.2, 0.3), "flat"),
        ((0.3, 0.3 + 1e-5), "flat"),
        ((-1.0, -1.0), "all_malformed"),
        ((-1.0, 0.3), "kept"),
    ],
)
def test_group_signal(rewards: tuple[float, ...], signal: str) -> None:
    assert group_signal(make_group(*rewards), min_reward_std=1e-4) == signal


def test_counts_tell_format_from_similarity() -> None:
    counts = SignalCounts()
    for rewards in ((-1.0, 0.3, 0.3), (0.0, 1.0), (0.5, 0.5), (-1.0, -1.0)):
        counts.add(make_group(*rewards), min_reward_std=1e-4)
    assert counts.metrics() == {
        "groups/kept": 2,
        "groups/flat": 1,
        "groups/all_malformed": 1,
        "groups/format_only_share": 0.5,
        "groups/similarity_std": 0.25,
    }
