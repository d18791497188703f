"""Bugs at the syntax tree: what each kind does to a small source, and what all of them have in common."""

import ast
import random
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.demo.bugs import Bug, candidate_bugs, file_patch, replacement

SOURCE = '''\
"""A module (docstrings < stay)."""

LIMIT = 3 + 4


def clip(values, low, high=None):
    """Keep values < high."""
    kept = []
    for value in values[1:]:
        if value < low and (value) != high:  # é: columns count bytes
            kept.append(value - low)
        elif not values:
            pass
    try:
        return min(kept, low)
    except KeyError:
        return kept, low


class Stack:
    strict: bool = True

    def top(self, default=False):
        return self.items
'''


def bugs_of(source: str = SOURCE, seed: int = 0) -> list[Bug]:
    return list(candidate_bugs(source, "pkg/clip.py", random.Random(seed)))


def changed_lines(bug: Bug) -> tuple[str, str]:
    lines = bug.bug_patch.splitlines()[4:]
    removed = [line[1:].strip() for line in lines if line.startswith("-")]
    added = [line[1:].strip() for line in lines if line.startswith("+")]
    return " ".join(removed), " ".join(added)


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("comparison_operator", "if value < low and (value) != high:", "if value <= low and (value) != high:"),
        ("comparison_operator", "if value < low and (value) != high:", "if value < low and (value) == high:"),
        ("boolean_operator", "if value < low and (value) != high:", "if value < low or (value) != high:"),
        ("arithmetic_operator", "kept.append(value - low)", "kept.append(value + low)"),
        ("off_by_one", "for value in values[1:]:", "for value in values[2:]:"),
        ("negated_condition", "elif not values:", "elif values:"),
        ("swapped_arguments", "return min(kept, low)", "return min(low, kept)"),
        ("exception_type", "except KeyError:", "except IndexError:"),
        ("wrong_return", "return kept, low", "return low, kept"),
        ("wrong_return", "return self.items", "return None"),
        ("constant", "def top(self, default=False):", "def top(self, default=True):"),
        ("wrong_variable", "return kept, low", "return kept, high"),
        ("dropped_statement", "kept = []", ""),
        ("dropped_statement", "kept.append(value - low)", "pass"),
    ],
)
def test_a_kind_makes_its_change(kind: str, old: str, new: str) -> None:
    comment = "  # é: columns count bytes"
    found = {(bug.kind, *(line.replace(comment, "") for line in changed_lines(bug))) for bug in bugs_of()}
    assert (kind, old, new) in found


def test_nothing_outside_functions_is_touched() -> None:
    for bug in bugs_of():
        assert '"""A module (docstrings < stay)."""\n\nLIMIT = 3 + 4\n' in bug.broken_source
        assert '"""Keep values < high."""' in bug.broken_source
        assert "strict: bool = True" in bug.broken_source


def test_every_candidate_parses_changes_the_tree_and_names_its_place() -> None:
    original = ast.dump(ast.parse(SOURCE))
    bugs = bugs_of()
    assert len({bug.bug_patch for bug in bugs}) == len(bugs) > 25
    for bug in bugs:
        assert ast.dump(ast.parse(bug.broken_source)) != original
        assert (bug.class_name, bug.function) in {("", "clip"), ("Stack", "top")}


def test_the_seed_alone_decides_the_order() -> None:
    assert bugs_of(seed=1) == bugs_of(seed=1)
    assert bugs_of(seed=1) != bugs_of(seed=2)
    assert {bug.bug_patch for bug in bugs_of(seed=1)} == {bug.bug_patch for bug in bugs_of(seed=2)}


def test_git_applies_the_patches_both_ways(tmp_path: Path) -> None:
    file = tmp_path / "pkg" / "clip.py"
    file.parent.mkdir()
    for bug in bugs_of():
        file.write_text(SOURCE)
        for patch, expected in ((bug.bug_patch, bug.broken_source), (bug.gold_patch, SOURCE)):
            subprocess.run(["git", "apply", "-"], input=patch, text=True, cwd=tmp_path, check=True)
            assert file.read_text() == expected


def test_a_missing_final_newline_is_said() -> None:
    patch = file_patch("a", "x\ny", "x\nz")
    assert re.sub(r"index \w+\.\.\w+ \d+\n", "", patch) == (
        "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n x\n-y\n\\ No newline at end of file\n"
        "+z\n\\ No newline at end of file\n"
    )


def test_replacement_takes_in_lines_until_the_old_text_is_unique() -> None:
    assert replacement("a\nx = 1\nb\nx = 12\n", "a\nx = 2\nb\nx = 12\n") == ("a\nx = 1", "a\nx = 2")
    assert replacement("a\nb\n", "a\nnew\nb\n") == ("a", "a\nnew")


@given(
    lines=st.lists(st.sampled_from(["a", "b", " a", ""]), min_size=1, max_size=8).filter(any),
    position=st.integers(0, 7),
    new=st.sampled_from(["c", "a", ""]),
)
def test_replacement_is_unique_and_gives_the_new_text(lines: list[str], position: int, new: str) -> None:
    changed = [*lines]
    changed[position % len(lines)] = new
    before, after = "\n".join(lines) + "\n", "\n".join(changed) + "\n"
    old_text, new_text = replacement(before, after)
    assert before.find(old_text) == before.rfind(old_text)
    assert before.replace(old_text, new_text) == after
