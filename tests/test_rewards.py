"""Similarity against difflib bit for bit, and the baselines."""

from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe import rewards
from srl_swe.types import HistoryPair, StepExample

COMMAND = st.lists(
    st.sampled_from(["sed -n ", "1,20p ", "a.py", "grep -rn ", "'def f'", " | head", "\n", "é", "\U0001f600", "x" * 30])
    | st.text(max_size=8),
    max_size=40,
).map("".join)


def test_the_fast_backend_is_in_use_where_it_is_installed() -> None:
    pytest.importorskip("difflib_fast", reason="extra [train] is not installed")
    assert rewards.backend() is not rewards.difflib_similarity


@given(COMMAND, COMMAND)
def test_similarity_equals_difflib_bit_for_bit(student: str, expert: str) -> None:
    assert rewards.similarity(student, expert) == SequenceMatcher(None, student, expert, autojunk=False).ratio()


def test_numbers_by_hand() -> None:
    # "abcd" and "bcde" share "bcd": 2 * 3 / 8.
    assert rewards.similarity("abcd", "bcde") == 0.75
    assert rewards.similarity("", "") == 1.0
    assert rewards.similarity("ls", "") == 0.0


def test_frequent_characters_of_long_actions_count() -> None:
    long = "print(value) " * 40
    assert rewards.similarity(long + "a", long + "b") > 0.99


def test_student_first_expert_second() -> None:
    pair = ("tide", "diet")  # the standard example of difflib's asymmetry
    assert rewards.similarity(*pair) == 0.25
    assert rewards.similarity(*reversed(pair)) == 0.5


def test_lone_surrogates_are_scored() -> None:
    assert rewards.similarity("a\ud800b", "a\ud800b") == 1.0


def test_matching_blocks_add_up_to_the_similarity() -> None:
    student, expert = "sed -n 1,20p a.py", "sed -n 1,40p b.py"
    blocks = rewards.matching_blocks(student, expert)
    total = sum(block.size for block in blocks)
    assert 2 * total / (len(student) + len(expert)) == rewards.similarity(student, expert)
    assert all(student[m.a : m.a + m.size] == expert[m.b : m.b + m.size] for m in blocks)


def test_a_backend_that_disagrees_is_refused() -> None:
    assert not rewards._agrees(lambda student, expert: SequenceMatcher(None, student, expert).ratio() + 1e-12)
    assert rewards._agrees(rewards.difflib_similarity)


def test_copy_last_scores_the_previous_action() -> None:
    example = StepExample(
        example_id="t-1", instance_id="i", trajectory_id="t", step_index=1, problem_statement="p",
        history=(HistoryPair(action="abcd", observation=""),), expert_thought="", expert_action="bcde",
    )  # fmt: skip
    assert rewards.copy_last(example) == 0.75
