"""Which steps a round samples: by hand, and as properties over any course of signals."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.training.advantages import Signal
from srl_swe.training.refill import (
    FIRST_STATE,
    FlatStep,
    RefillState,
    choose_steps,
    note_iteration,
    note_signals,
    round_size,
)

SKIP = {"skip_after_flat": 2, "skip_epochs": 2}
SIGNALS = st.sampled_from(["kept", "flat", "all_malformed"])


def test_round_size_by_hand() -> None:
    assert round_size(6, keep_rate=0.4, max_oversampling=4, budget=100) == 15
    assert round_size(6, keep_rate=1.0, max_oversampling=4, budget=100) == 6
    assert round_size(6, keep_rate=0.01, max_oversampling=4, budget=100) == 24
    assert round_size(6, keep_rate=0.4, max_oversampling=1, budget=100) == 6
    assert round_size(6, keep_rate=0.4, max_oversampling=4, budget=7) == 7


@given(st.integers(1, 600), st.floats(0, 1), st.floats(1, 100), st.integers(1, 5000))
def test_a_round_is_never_empty_nor_beyond_its_bounds(missing: int, rate: float, factor: float, budget: int) -> None:
    count = round_size(missing, keep_rate=rate, max_oversampling=factor, budget=budget)
    assert min(missing, budget) <= count <= min(missing * factor, budget)


def test_flat_steps_are_passed_over_and_come_back() -> None:
    # One step: flat, flat, passed over twice, sampled again; flat once more, so passed over again.
    state, drawn, sampled_at = FIRST_STATE, 0, []
    for _ in range(4):
        choice = choose_steps(state, 1, drawn=drawn, count=1, seed=0)
        drawn += choice.drawn
        sampled_at.append(drawn)
        state = note_signals(choice.state, choice.indices, ["flat"], **SKIP)
    assert sampled_at == [1, 2, 5, 8]
    assert state.flat == (FlatStep(index=0, streak=4, passes=2),)
    kept = note_signals(state, [0], ["kept"], **SKIP)
    assert kept.flat == ()
    assert note_signals(state, [0], ["all_malformed"], **SKIP) == state
    assert note_signals(FIRST_STATE, [0] * 5, ["flat"] * 5, skip_after_flat=0, skip_epochs=2) == FIRST_STATE


def test_surplus_comes_first() -> None:
    state = note_iteration(FIRST_STATE, num_kept=5, num_sampled=10, surplus=[7, 3])
    assert state.keep_rate == pytest.approx(0.7 * 1 + 0.3 * 0.5)
    choice = choose_steps(state, 10, drawn=0, count=3, seed=0)
    assert choice.indices[:2] == (7, 3)
    assert choice.drawn == 1
    assert choice.state.surplus == ()
    assert choose_steps(state, 10, drawn=0, count=1, seed=0).state.surplus == (3,)


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(1, 5), st.lists(SIGNALS, min_size=5, max_size=5)), max_size=8))
def test_any_course_of_signals_ends_and_resumes(num_examples: int, rounds: list[tuple[int, list[Signal]]]) -> None:
    state, drawn = FIRST_STATE, 0
    for count, signals in rounds:
        # What a checkpoint would hold decides the same.
        loaded = RefillState.from_json(json.loads(json.dumps(asdict(state))))
        assert loaded == state
        choice = choose_steps(loaded, num_examples, drawn=drawn, count=count, seed=1)
        assert choice == choose_steps(state, num_examples, drawn=drawn, count=count, seed=1)
        assert len(choice.indices) == count
        assert choice.state.num_sampled == state.num_sampled + count
        # Each step waits for two draws at most, so an epoch is gone through three times at most for each one chosen.
        assert choice.drawn <= 3 * num_examples * count
        assert choice.drawn == choice.passed_over + count - min(count, len(state.surplus))
        waiting = {step.index for step in state.flat if step.passes >= choice.drawn}
        assert not waiting & set(choice.indices[len(state.surplus) :])
        state = note_signals(choice.state, choice.indices, signals[:count], **SKIP)
        num_kept = signals[:count].count("kept")
        state = note_iteration(state, num_kept=num_kept, num_sampled=count, surplus=choice.indices[:1])
        drawn += choice.drawn
        assert 0 <= state.keep_rate <= 1
