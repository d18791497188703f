"""What is noise in an observation, what is not, and what cut observations can be compared by."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srl_swe.curation.normalise import (
    RULES,
    Rule,
    compare,
    difference,
    normalised,
    patch_difference,
    same_patch,
)

TEXTS = [text for rule in RULES for text in (rule.before, rule.after)]
PIECES = st.sampled_from(
    [*TEXTS, "\n", "\r\n", "\x1b[", "\x1b", "31m", " ", "[exit code 1]", "sh: ", "line 3: ", "====", "4711"]
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.before[:30])
def test_a_rule_does_what_its_example_says(rule: Rule) -> None:
    assert normalised(rule.before) == rule.after
    assert rule.apply(rule.before) != rule.before
    assert compare(rule.before, rule.after) == "same"


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=60) | st.lists(PIECES | st.text(max_size=5), max_size=8).map("".join))
def test_normalising_again_changes_nothing(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once
    assert compare(text, once) == "same"


@pytest.mark.parametrize(
    ("recorded", "replayed"),
    [
        ("=== 2 failed, 11 passed in 0.31s ===", "======= 2 failed, 11 passed in 12.04s ======="),
        ("5 passed in 61.20s (0:01:01)", "5 passed in 59.99s"),
        ("Ran 3 tests in 0.001s\n\nOK\n", "Ran 3 tests in 0.012s\n\nOK"),
        ("<function f at 0x7f3a5c1d2e80>", "<function f at 0x7f0000001234>"),
        ("(0x7f3a5c1d2e80, 0x55d0aabbccdd)", "(0x7fffffffffff, 0x560000000000)"),
        ("a0c829b base", "dafdeab base"),
        ("5216562 base\nx", "dafdeab base\nx"),
        ("total 12\n-rw-r--r-- 1 root root  512 May  1 12:34 a", "total 8\n-rw-r--r-- 1 root root 512 Nov 25  2026 a"),
        ("drwxr-xr-x 2 root root 4096 May  1 12:34 src", "drwxr-xr-x 3 root root 60 May 11 02:04 src"),
        ("commit " + "ab" * 20 + "\nAuthor: A <a@b>\nDate:   Wed May 1 12:34:56 2024 +0000\n\n    base",
         "commit " + "cd" * 20 + "\nAuthor: C <c@d>\nDate:   Sat Jan 1 00:00:00 2000 +0000\n\n    base"),
        ("/bin/bash: line 3: pyt: command not found", "bash: pyt: command not found"),
        ("{'a', 'b', 'c'}", "{'c', 'a', 'b'}"),
        ("\x1b[31mred\x1b[0m\r\n\r\n", "red"),
        ("wrote /tmp/tmpab12cd_4/x and /tmp/tmp.Q1w2E3r4T5", "wrote /tmp/tmpzzzzzzzz/x and /tmp/tmp.AAAAAAAAAA"),
        ("no\n[exit code 1]\n[the shell ended; this is a fresh one in the same directory]", "no"),
    ],
)  # fmt: skip
def test_noise_does_not_count(recorded: str, replayed: str) -> None:
    assert compare(recorded, replayed) == "same", difference(recorded, replayed)


@pytest.mark.parametrize(
    ("recorded", "replayed"),
    [
        ("2 failed, 11 passed in 0.31s", "1 failed, 12 passed in 0.31s"),
        ("src/a.py:12: AssertionError", "src/a.py:13: AssertionError"),
        ("    12\treturn a", "    13\treturn a"),
        ("-rw-r--r-- 1 root root 512 May  1 12:34 a", "-rw-r--r-- 1 root root 513 May  1 12:34 a"),
        ("-rw-r--r-- 1 root root 512 May  1 12:34 a", "-rwxr-xr-x 1 root root 512 May  1 12:34 a"),
        ("-rw-r--r-- 1 root root 512 May  1 12:34 a", "-rw-r--r-- 1 user root 512 May  1 12:34 a"),
        ("index a0c829b..1234567 100644", "index a0c829b..1234568 100644"),
        ("  return a", " return a"),
        ("total 48", "total 47"),
        ("offset at 0x10", "offset at 0x20"),
        ("sleep(0.5)", "sleep(0.6)"),
        ("timeout = 30s", "timeout = 60s"),
        ("1234567 bytes", "1234568 bytes"),
        ("1234567 bytes", "dafdeab base"),
        ("birthday 2024-05-01", "birthday 2024-05-02"),
        ("http://localhost:8000/a", "http://localhost:8001/a"),
        ("['b', 'a']", "['a', 'b']"),
        ("{'b': 1, 'a': 2}", "{'a': 2, 'b': 1}"),
        ("{'a', 'b'}", "{'a', 'c'}"),
        ("bash: line 1: pyt: command not found", "bash: line 1: pyx: command not found"),
        ("tmp_folders", "tmp_holders"),
        ("", "Killed"),
        ("a\nb", "a\n\nb"),
        ("a", "a\na"),
        ("platform linux -- Python 3.11.2", "platform linux -- Python 3.11.7"),
        ("exit code 1", "exit code 2"),
    ],
)
def test_real_differences_stay(recorded: str, replayed: str) -> None:
    assert compare(recorded, replayed) == "different"
    assert compare(replayed, recorded) == "different"
    assert difference(recorded, replayed)


def test_lines_in_another_order_are_told_apart() -> None:
    assert compare("./b.py\n./a.py\n", "./a.py\n./b.py\n") == "reordered"
    assert compare("./b.py\n./a.py\n", "./a.py\n./c.py\n") == "different"
    assert compare("./a.py\n./a.py\n./b.py", "./a.py\n./b.py\n./b.py") == "different"


LONG = "\n".join(f"line {number}" for number in range(400))
MARKS = [
    "\n[... 1234 characters elided ...]\n",
    "\n[1234 characters elided]\n",
    "\n[… 1234 characters left out …]\n",
    "\n[… 1234 bytes left out …]\n",
    "\n[... Observation truncated due to length ...]\n",
    "<response clipped><NOTE>Observations should not exceeded 100 characters.\n1234 characters were elided.</NOTE>",
]


@pytest.mark.parametrize("mark", MARKS)
def test_of_a_cut_observation_both_ends_are_compared(mark: str) -> None:
    cut = LONG[:503] + mark + LONG[-498:]
    assert compare(cut, LONG) == "same"
    assert compare(LONG, cut) == "same"
    assert compare(cut, LONG[:700] + mark + LONG[-400:]) == "same"
    assert compare(cut, LONG.replace("line 3\n", "line X\n")) == "different"
    assert compare(cut, LONG.replace("line 399", "line X")) == "different"
    assert compare(cut, LONG[:600]) == "different"
    assert compare(cut, LONG.replace("line 200\n", "")) == "same", "nobody knows what was left out"
    lines = LONG.split("\n")
    assert compare(cut, "\n".join([*lines[1:20], lines[0], *lines[20:]])) == "reordered"
    assert mark.strip() not in difference(cut, LONG.replace("line 3\n", "line X\n"))


def test_what_was_cut_off_at_the_end_is_not_compared() -> None:
    assert compare("one\ntwo\nthr<response clipped>", "one\ntwo\nthree\nfour") == "same"
    assert compare("one\ntwo\nthr<response clipped>", "one\n2\nthree\nfour") == "different"


def test_a_cut_line_without_an_end_is_compared_word_by_word() -> None:
    words = " ".join(f"word{number}" for number in range(100))
    cut = words[:203] + "\n[… 500 characters left out …]\n" + words[-197:]
    assert compare(cut, words) == "same"
    assert compare(cut, words.replace("word2 ", "wordX ")) == "different"
    assert compare(cut, words.replace("word98", "wordX")) == "different"


def test_a_difference_is_bounded() -> None:
    other = LONG.replace("line", "LINE")
    assert len(difference(LONG, other, max_lines=10).split("\n")) == 11
    assert len(difference(LONG, other, max_chars=100)) <= 105
    assert difference(LONG, LONG) == ""
    assert difference(LONG + "\nend", LONG) == "--- recorded\n+++ replayed\n@@\n line 399\n-end"
    hard = "\n".join(str(number % 7) for number in range(200_000))
    assert difference(hard, hard[::-1]), "in no time"


FIRST = """\
diff --git a/a.py b/a.py
index 1111111..2222222 100644
--- a/a.py
+++ b/a.py
@@ -1,2 +1,2 @@ def f():
-a
+b
 c
"""
SECOND = """\
diff --git a/b.py b/b.py
new file mode 100644
index 0000000..3333333
--- /dev/null
+++ b/b.py
@@ -0,0 +1 @@
+x
"""


def test_patches_are_the_same_but_for_order_and_names_of_blobs() -> None:
    other = FIRST.replace("1111111", "1" * 40).replace("@@ def f():", "@@ class A:")
    assert same_patch(FIRST + SECOND, SECOND + other)
    assert same_patch("warning: CRLF\n" + FIRST, FIRST.rstrip("\n"))
    assert same_patch("", "\n")
    assert patch_difference(FIRST + SECOND, SECOND + other) == ""


@pytest.mark.parametrize(
    "other",
    [FIRST, SECOND, "", FIRST + SECOND.replace("+x", "+y"), FIRST.replace("-1,2", "-2,2") + SECOND,
     FIRST + SECOND.replace("100644", "100755"), FIRST.replace("+b", "+b ") + SECOND],
)  # fmt: skip
def test_patches_that_do_something_else_differ(other: str) -> None:
    assert not same_patch(FIRST + SECOND, other)
    assert patch_difference(FIRST + SECOND, other)
