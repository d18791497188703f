"""Figures of compared methods, worked out by hand."""

from pathlib import Path

import pytest
from rich.console import Console

from srl_swe.errors import DataError
from srl_swe.evaluation.held_out import HeldOutStep
from srl_swe.evaluation.methods import MeasuredModel, Resolved, Spent, compare_methods
from srl_swe.evaluation.methods_page import write_methods_page
from tests.strict_page import text_of


def measured(method: str, seed: int | None, *similarities: float | None, resolved: int | None = None) -> MeasuredModel:
    """None stands for a malformed answer; every answer is ten tokens longer than the one before it."""
    steps = tuple(
        HeldOutStep(
            example_id=f"e{i}",
            reward=-1.0 if similarity is None else similarity,
            similarity=similarity or 0.0,
            well_formed=similarity is not None,
            completion_tokens=10 * (i + 1),
        )
        for i, similarity in enumerate(similarities)
    )
    acted = None if resolved is None else Resolved(num_resolved=resolved, num_instances=10, num_invalid=1)
    return MeasuredModel(method=method, seed=seed, steps=steps, resolved=acted, spent=Spent(iterations=2))


START = measured("start", None, 0.0, None, 0.5, 0.5)
MODELS = [
    measured("srl", 0, 0.5, 0.5, 0.5, 0.5, resolved=3),
    measured("sft", 0, 0.25, None, 1.0, 0.75, resolved=1),
    measured("srl", 1, 1.0, 0.0, 0.5, 0.5, resolved=5),
    measured("sft", 1, 0.25, 0.5, 1.0, 0.75, resolved=1),
]


def test_means_over_seeds_and_steps() -> None:
    found = compare_methods(START, MODELS, copy_last_similarity=0.125)
    srl, sft = found.methods
    assert (found.num_steps, found.copy_last_similarity) == (4, 0.125)
    assert (srl.method, srl.seeds, srl.by_seed["similarity"]) == ("srl", (0, 1), (0.5, 0.5))
    # Steps of sft, over seeds: 0.25, 0.25, 1, 0.75; with rewards 0.25, -0.25, 1, 0.75.
    assert sft.estimates["similarity"].mean == pytest.approx(2.25 / 4)
    assert sft.estimates["reward"].mean == pytest.approx(1.75 / 4)
    assert sft.estimates["format_rate"].mean == pytest.approx(7 / 8)
    assert sft.by_seed["format_rate"] == (0.75, 1.0)
    assert sft.estimates["completion_tokens"].mean == 25.0
    low, high = sft.estimates["similarity"].low, sft.estimates["similarity"].high
    assert low is not None and high is not None and 0.25 <= low < 2.25 / 4 < high <= 1.0
    assert (found.start.seeds, found.start.estimates["similarity"].mean, found.start.resolve_rate) == ((), 0.25, None)


def test_differences_are_paired_by_step_and_against_the_control_first() -> None:
    found = compare_methods(START, MODELS, copy_last_similarity=0.0)
    named = {(one.method, one.minus): one.estimates for one in found.differences}
    assert list(named) == [("srl", "start"), ("sft", "start"), ("srl", "sft")]
    # srl over seeds: 0.75, 0.25, 0.5, 0.5; minus sft: 0.5, 0, -0.5, -0.25.
    similarity = named["srl", "sft"]["similarity"]
    assert similarity.mean == pytest.approx(-0.0625)
    assert similarity.low is not None and similarity.high is not None and similarity.low < 0 < similarity.high
    # All steps differ by the same, nothing: there is nothing to resample.
    tokens = named["srl", "sft"]["completion_tokens"]
    assert (tokens.mean, tokens.low, tokens.high) == (0.0, None, None)


def test_pairing_is_by_step() -> None:
    """Two methods that differ by 0.1 on every step: the interval is that of the difference, not of the steps."""
    one = measured("sft", 0, 0.1, 0.9, 0.2, 0.8, 0.3)
    other = measured("srl", 0, 0.2, 1.0, 0.3, 0.9, 0.41)
    [difference] = compare_methods(START_5, [one, other], copy_last_similarity=0.0).differences[2:]
    estimate = difference.estimates["similarity"]
    assert estimate.mean == pytest.approx(0.102)
    assert estimate.low is not None and estimate.low > 0.09


START_5 = measured("start", None, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_the_resolve_rate_is_over_all_episodes() -> None:
    srl, _ = compare_methods(START, MODELS, copy_last_similarity=0.0).methods
    rate = srl.resolve_rate
    assert rate is not None
    assert (rate.num_resolved, rate.num_episodes, rate.num_invalid, rate.by_seed) == (8, 20, 2, (0.3, 0.5))
    # Wilson, z = 1.959964: (0.4 + z²/40 ± z sqrt(0.4 * 0.6 / 20 + z²/1600)) / (1 + z²/20).
    assert (rate.low, rate.high) == (pytest.approx(0.21880, abs=1e-4), pytest.approx(0.61342, abs=1e-4))


def test_other_held_out_steps_are_refused() -> None:
    with pytest.raises(DataError, match=r"srl, seed 0, was measured on other held-out steps"):
        compare_methods(START, [measured("srl", 0, 0.5)], copy_last_similarity=0.0)


def test_what_stages_took_adds_up() -> None:
    both = Spent(iterations=1, trained_tokens=2, completion_tokens=3, tree_tokens=4, seconds=0.5)
    assert both.plus(both) == Spent(iterations=2, trained_tokens=4, completion_tokens=6, tree_tokens=8, seconds=1.0)


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    found = compare_methods(START, MODELS, copy_last_similarity=0.125)
    record = {"budget": "tokens", "budget_per_run": 4000, "num_training_examples": 16, "control": "sft"}
    page = write_methods_page(tmp_path, record, found, console=Console())
    assert page is not None
    text = " ".join(text_of(page.read_text()).split())
    assert "Every run: 4,000 tokens in the loss, 16 training steps" in text
    assert "sft is the control" in text
    assert "srl \N{MINUS SIGN} sft -0.062" in text
    assert "8 / 20 21.9\N{EN DASH}61.3 %" in text
    assert "copy-last baseline 0.125" in text
