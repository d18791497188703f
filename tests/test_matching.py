"""The compiled matching against difflib, bit for bit, and where it ends."""

import random
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe import matching, rewards

pytest.importorskip("numba", reason="extra [train] is not installed")
matching.matched_ratio("compiled", "once")  # some seconds, which no example below has to wait for

FEW_LETTERS = st.text(st.sampled_from("ab \n"), max_size=120)
ANY_LETTERS = st.text(st.characters(codec=None) | st.sampled_from("ab\ud800\U0001f600\uffff"), max_size=60)


def reference(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


@given(FEW_LETTERS, FEW_LETTERS)
def test_many_equally_long_blocks_are_chosen_as_difflib_does(a: str, b: str) -> None:
    assert matching.matched_ratio(a, b) == reference(a, b)


@given(ANY_LETTERS, ANY_LETTERS)
def test_every_character_counts_as_itself(a: str, b: str) -> None:
    assert matching.matched_ratio(a, b) == reference(a, b)


@given(FEW_LETTERS, FEW_LETTERS)
def test_the_compiled_code_counts_as_the_same_python_does(a: str, b: str) -> None:
    codes = matching._codes(a, b)
    assert matching._count_matched(*codes) == matching._kernel()(*codes)


def test_characters_that_differ_by_65536_are_different() -> None:
    assert matching.matched_ratio("\u0041\u0042", "\U00010041\u0042") == 0.5


def test_the_largest_texts_that_fit() -> None:
    many = "".join(map(chr, range(0x20000, 0x20000 + 30_000)))
    assert matching.fits(many, "x" * 50)
    assert matching.matched_ratio(many, many[20_000:20_050]) == 2 * 50 / 30_050
    assert not matching.fits(many, "x" * 51)
    assert not matching.fits("x" * 40_000, "x")


@pytest.mark.parametrize("num_chars", [1_224, 1_225, 2_000])
def test_both_sides_of_the_limit_give_the_same(num_chars: int) -> None:
    generator = random.Random(num_chars)
    a, b = ("".join(generator.choices("abcdef \n", k=num_chars)) for _ in range(2))
    assert matching.fits(a, b) == (num_chars < 1_225)
    assert rewards.similarity(a, b) == reference(a, b)


def test_without_a_folder_for_compiled_code_it_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    def njit(**options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    real = numba.njit
    monkeypatch.setattr(numba, "njit", njit)
    matching._kernel.cache_clear()
    try:
        assert matching.matched_ratio("abcd", "bcde") == 0.75
    finally:
        matching._kernel.cache_clear()
