"""The completion format and the context, by hand and by property."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.errors import MalformedCompletionError
from srl_swe.prompts import PromptLimits, cut_middle, parse, render, write
from srl_swe.types import Completion, HistoryPair

GOOD = "<think>\nThe test fails.\n</think>\n```bash\nls -la\n```"


def test_parse_takes_a_good_completion_apart() -> None:
    assert parse(GOOD) == Completion(thought="The test fails.", action="ls -la")
    assert parse("\n " + GOOD + "\n\n") == parse(GOOD)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not start so"),
        ("```bash\nls\n```", "does not start so"),
        ("Sure! " + GOOD, "does not start so"),
        ("<think>\nno end\n```bash\nls\n```", "never closed"),
        ("<think> \n </think>\n```bash\nls\n```", "empty"),
        ("<think>a</think>", "Expected one ```bash"),
        ("<think>a</think>\nNow:\n```bash\nls\n```", "right after"),
        ("<think>a</think>\n```python\nls\n```", "Expected one ```bash"),
        ("<think>a</think>\n```bash\nls", "Expected one ```bash"),
        ("<think>a</think>\n```bash\n\n```", "is empty"),
        ("<think>a</think>\n```bash\n```", "Expected one ```bash"),
        (GOOD + "\n```bash\npwd\n```", "Nothing may follow"),
        (GOOD + "\nDone.", "Nothing may follow"),
        ("<think>a</think>\n<think>b</think>\n```bash\nls\n```", "right after"),
    ],
)
def test_parse_says_what_is_malformed(text: str, words: str) -> None:
    with pytest.raises(MalformedCompletionError, match=words):
        parse(text)


def test_an_action_with_a_fence_gets_a_longer_fence() -> None:
    action = "cat > a.md <<'EOF'\n```bash\nls\n```\nEOF"
    text = write("I write the page.", action)
    assert "````bash\n" in text
    assert parse(text).action == action


@given(st.text(min_size=1), st.text(min_size=1))
def test_what_is_written_is_read_back(thought: str, action: str) -> None:
    try:
        text = write(thought, action)
    except MalformedCompletionError:
        assert not thought.strip() or not action.strip() or "</think>" in thought
    else:
        assert parse(text) == Completion(thought=thought.strip(), action=action.strip())


PAIRS = tuple(HistoryPair(action=f"command {k}", observation=f"output {k}\n") for k in range(4))


def test_the_last_pairs_are_shown_and_the_rest_is_counted() -> None:
    text = render("It breaks.", PAIRS, PromptLimits(history=2))[-1]["content"]
    assert "[2 earlier commands not shown]" in text
    assert "command 1" not in text
    assert text.endswith("<command>\ncommand 3\n</command>\n<output>\noutput 3\n</output>")
    assert "command" not in render("It breaks.", PAIRS, PromptLimits(history=0))[-1]["content"].replace(
        "earlier commands", ""
    )


def test_with_full_history_each_prompt_extends_the_one_before() -> None:
    full = PromptLimits(history=None, max_observation_chars=100)
    texts = [render("It breaks.", PAIRS[:k], full)[-1]["content"] for k in range(5)]
    assert all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(texts))


def test_cut_middle_by_hand() -> None:
    assert cut_middle("abcde", 5) == "abcde"
    assert cut_middle("abcdef", 5) == "abc\n[… 1 characters left out …]\nef"
    assert cut_middle("abc", 1) == "a\n[… 2 characters left out …]\n"
    assert cut_middle("abc", 2, omitted=7) == "a\n[… 8 characters left out …]\nc"


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_cut_middle_keeps_head_and_tail(text: str, max_chars: int) -> None:
    cut = cut_middle(text, max_chars)
    if len(text) <= max_chars:
        assert cut == text
    else:
        tail = max_chars // 2
        assert cut.startswith(text[: max_chars - tail])
        assert cut.endswith(text[len(text) - tail :])
        assert f"[… {len(text) - max_chars} characters left out …]" in cut
