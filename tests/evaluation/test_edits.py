"""Search/replace edits: read, applied, and written as diffs that git itself takes."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srl_swe.environments.diffs import unified_diff
from srl_swe.errors import MalformedCompletionError
from srl_swe.evaluation.edit_prompts import edit_messages, localise_messages, parse_localisation
from srl_swe.evaluation.edits import Edit, apply_edits, parse_edits

ANSWER = """\
<think>
### not/this.py
<<<<<<< SEARCH
x
=======
y
>>>>>>> REPLACE
</think>
### `calc.py`
<<<<<<< SEARCH
    return a - b
=======
    return a + b
>>>>>>> REPLACE

### new/file.py
<<<<<<< SEARCH
=======
fresh = 1
>>>>>>> REPLACE
"""


def git_apply(folder: Path, files: dict[str, str], patch: str) -> dict[str, str] | None:
    """Return the files after git applied the patch; None where it refused."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    done = subprocess.run(["git", "apply"], input=patch.encode(), cwd=folder, check=False, capture_output=True)
    if done.returncode:
        return None
    found = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes().decode() for path in found}


def test_edits_of_an_answer() -> None:
    assert parse_edits(ANSWER) == (
        Edit(path="calc.py", search="    return a - b\n", replace="    return a + b\n"),
        Edit(path="new/file.py", search="", replace="fresh = 1\n"),
    )
    assert parse_edits(ANSWER.replace("\n", "\r\n")) == parse_edits(ANSWER)
    (deletion,) = parse_edits("### a.py\n<<<<<<< SEARCH\nx\n=======\n>>>>>>> REPLACE")
    assert deletion.replace == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "no <<<<<<< SEARCH"),
        ("I would change the sign.", "no <<<<<<< SEARCH"),
        (ANSWER.split("</think>")[0], "never closed"),
        (ANSWER.replace("=======\nfresh", "fresh"), "2 SEARCH blocks are begun, 1 are complete"),
        (ANSWER.removesuffix(">>>>>>> REPLACE\n"), "2 SEARCH blocks are begun, 1 are complete"),
        (ANSWER.replace("new/file.py", "../out.py"), "is not that of a file in the work tree"),
        (ANSWER.replace("new/file.py", "/etc/passwd"), "is not that of a file in the work tree"),
        (ANSWER.replace("new/file.py", ".git/hooks/x"), "is not that of a file in the work tree"),
    ],
)
def test_malformed_answers(answer: str, why: str) -> None:
    with pytest.raises(MalformedCompletionError, match=why):
        parse_edits(answer)


def test_edits_become_a_patch_that_git_applies(tmp_path: Path) -> None:
    calc = "def add(a, b):\n    return a - b\n"
    applied = apply_edits(parse_edits(ANSWER), {"calc.py": calc, "new/file.py": None})
    assert applied.not_found == ()
    after = git_apply(tmp_path, {"calc.py": calc}, applied.patch)
    assert after == {"calc.py": calc.replace("-", "+"), "new/file.py": "fresh = 1\n"}


def test_what_is_not_found_makes_a_patch_that_does_not_apply(tmp_path: Path) -> None:
    calc = "def add(a, b):\n    return a-b\n"
    applied = apply_edits(parse_edits(ANSWER), {"calc.py": calc, "new/file.py": None})
    assert [edit.path for edit in applied.not_found] == ["calc.py"]
    assert "-    return a - b\n+    return a + b\n" in applied.patch
    assert git_apply(tmp_path, {"calc.py": calc}, applied.patch) is None
    # A file that is to be new and is there already, and one that is not there at all.
    exists = apply_edits([Edit(path="a.py", search="", replace="x\n")], {"a.py": "y\n"})
    assert git_apply(tmp_path / "exists", {"a.py": "y\n"}, exists.patch) is None
    lacks = apply_edits([Edit(path="a.py", search="x\n", replace="y\n")], {"a.py": None})
    assert git_apply(tmp_path / "lacks", {}, lacks.patch) is None


def test_the_first_place_counts_and_part_of_a_line_is_no_place() -> None:
    edit = Edit(path="a", search="x\n", replace="y\n")
    assert "+y" in apply_edits([edit], {"a": "ax\nx\nx\n"}).patch
    first = apply_edits([edit], {"a": "x\nx\n"}).patch
    assert first.endswith("@@ -1,2 +1,2 @@\n+y\n x\n-x\n")
    assert apply_edits([edit], {"a": "ax\n"}).not_found == (edit,)
    # Later edits see what earlier ones did.
    chain = apply_edits([edit, Edit(path="a", search="y\n", replace="z\n")], {"a": "x\n"})
    assert "+z" in chain.patch
    assert apply_edits([Edit(path="a", search="x\n", replace="x\n")], {"a": "x\n"}).patch == ""


lines = st.lists(st.sampled_from(["a", "b", "  a", "", "\tc", "é", "+", "-x", "\\ No newline"]), max_size=8)


@given(before=lines, after=lines, ends=st.tuples(st.booleans(), st.booleans()), crlf=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_diff_applies(
    before: list[str], after: list[str], ends: tuple[bool, bool], crlf: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    newline = "\r\n" if crlf else "\n"
    old = newline.join(before) + (newline if ends[0] and before else "")
    new = newline.join(after) + (newline if ends[1] and after else "")
    if old != new:
        assert git_apply(tmp_path_factory.mktemp("diff"), {"f": old}, unified_diff("f", old, new)) == {"f": new}


@given(text=st.lists(st.sampled_from(["a", "b", " c"]), min_size=1, max_size=9), data=st.data(), ends=st.booleans())
@settings(max_examples=25, deadline=None)
def test_an_edit_changes_its_lines_and_nothing_else(
    text: list[str], data: st.DataObject, ends: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    searched = text[start : data.draw(st.integers(start + 1, len(text)))]
    new = data.draw(st.lists(st.sampled_from(["a", "NEW"]), max_size=2))
    first = next(at for at in range(len(text)) if text[at : at + len(searched)] == searched)
    lines_after = [*text[:first], *new, *text[first + len(searched) :]]
    content = "\n".join(text) + ("\n" if ends else "")
    edit = Edit(path="f", search="".join(f"{line}\n" for line in searched), replace="".join(f"{x}\n" for x in new))
    applied = apply_edits([edit], {"f": content})
    assert applied.not_found == ()
    after = (
        git_apply(tmp_path_factory.mktemp("edit"), {"f": content}, applied.patch) if applied.patch else {"f": content}
    )
    assert after is not None
    assert [*after["f"].splitlines()] == lines_after
    if ends:
        assert after["f"].endswith("\n") or not after["f"]


def test_prompts_show_the_files_and_localisation_names_known_ones() -> None:
    system, user = edit_messages("It fails.", {"a.py": "x = 1\n"})
    assert "<<<<<<< SEARCH" in system["content"]
    assert user["content"] == "<issue>\nIt fails.\n</issue>\n\n<file path='a.py'>\nx = 1\n</file>"
    system, user = localise_messages("It fails.", ["a.py", "b.py"], num_files=2)
    assert "At most 2 files" in system["content"]
    assert user["content"].endswith("<files>\na.py\nb.py\n</files>")
    answer = "<think>\nb\n</think>\n```\nb.py\n- `a.py`\nb.py\nz.py\n```"
    assert parse_localisation(answer, ["a.py", "b.py"], num_files=2) == ("b.py", "a.py")
    assert parse_localisation(answer, ["a.py", "b.py"], num_files=1) == ("b.py",)
    for wrong, why in (("b.py", "no ``` block"), ("```\nz.py\n```", "names no file")):
        with pytest.raises(MalformedCompletionError, match=why):
            parse_localisation(wrong, ["a.py"], num_files=2)
