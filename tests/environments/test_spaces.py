"""The space of all strings."""

import pytest

from srl_swe.environments.spaces import UnicodeText


def test_holds_every_string_and_nothing_else() -> None:
    space = UnicodeText()
    assert all(space.contains(text) for text in ("", "ls -la\n", "日本 \x1b[0m \0 \ud800", "x" * 10**6))
    assert not any(space.contains(other) for other in (b"ls", 1, None, ["ls"]))


def test_length_limit_is_inclusive() -> None:
    assert UnicodeText(3).contains("abc")
    assert not UnicodeText(3).contains("abcd")
    with pytest.raises(ValueError, match="at least 1"):
        UnicodeText(0)


def test_samples_are_seeded_members() -> None:
    first, second = UnicodeText(5, seed=7), UnicodeText(5, seed=7)
    samples = [first.sample() for _ in range(50)]
    assert samples == [second.sample() for _ in range(50)]
    assert all(first.contains(sample) and sample.isalpha() for sample in samples)
    assert len(set(samples)) > 10
    with pytest.raises(ValueError, match="mask"):
        first.sample(mask=[1])


def test_equality_goes_by_the_limit() -> None:
    assert UnicodeText(3) == UnicodeText(3, seed=1)
    assert UnicodeText(3) != UnicodeText(4)
    assert len({UnicodeText(), UnicodeText()}) == 1
