"""The in-container `edit` tool, run by bash as a container would run it."""

import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srl_swe.trajectories.actions import edit_create, edit_insert, edit_lines, edit_replace, edit_undo, edit_view

EDIT = Path(__file__).parents[2] / "docker" / "edit"


def run(command: str, folder: Path, **environment: str) -> tuple[int, str]:
    """Run a command line with `edit` on the path; its backups go to a folder of their own."""
    history = folder / ".tmp"
    history.mkdir(exist_ok=True)
    path = f"{EDIT.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={"PATH": path, "TMPDIR": str(history), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "surrogateescape")


# Fragments that are hard for here-documents, separators and shells, besides arbitrary text.
_PIECES = st.one_of(
    st.sampled_from(
        [
            "EOF",
            "EOF_2",
            "=======",
            "========",
            "\n",
            "\n\n",
            "\t",
            "\r\n",
            "$HOME",
            "`id`",
            "\\",
            "'",
            '"',
            "é😀",
            "-n",
        ]
    ),
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8),
)
TEXTS = st.lists(_PIECES, max_size=8).map("".join)
_SETTINGS = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_SETTINGS
@given(text=TEXTS)
def test_create_round_trips_any_text(text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        status, output = run(edit_create("f.txt", text), Path(name))
        assert (status, output) == (0, "File created successfully at: f.txt\n")
        assert (Path(name) / "f.txt").read_bytes() == text.encode()


@_SETTINGS
@given(before=TEXTS, old=TEXTS.filter(bool), new=TEXTS, after=TEXTS)
def test_replace_does_what_the_published_editor_does(before: str, old: str, new: str, after: str) -> None:
    content = before + old + after
    newlines = content.count("\n")
    if newlines and content.count("\r\n") == newlines:
        content = content.replace("\r\n", "\n")  # such files have rules of their own, tested below
        old = old.replace("\r\n", "\n")
    expected = content.replace(old, new) if old and content.count(old) == 1 and old != new else content
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "f.txt"
        path.write_bytes(content.encode())
        status, output = run(edit_replace("f.txt", old, new), Path(name))
        assert path.read_bytes() == expected.encode()
        assert status == (0 if expected != content else 1), output


@_SETTINGS
@given(content=TEXTS, text=TEXTS, data=st.data())
def test_insert_does_what_the_published_editor_does(content: str, text: str, data: st.DataObject) -> None:
    content = content.replace("\r\n", "\n")
    lines = content.split("\n")
    line = data.draw(st.integers(0, len(lines)))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "f.txt"
        path.write_bytes(content.encode())
        status, output = run(edit_insert("f.txt", line, text), Path(name))
        assert status == 0, output
        assert path.read_bytes() == "\n".join(lines[:line] + text.split("\n") + lines[line:]).encode()
        status, _ = run(edit_undo("f.txt"), Path(name))
        assert status == 0
        assert path.read_bytes() == content.encode()


@_SETTINGS
@given(content=TEXTS, text=TEXTS, data=st.data())
def test_lines_puts_text_in_the_place_of_lines(content: str, text: str, data: st.DataObject) -> None:
    content = content.replace("\r\n", "\n")
    lines = content.split("\n")
    num_lines = len(lines) - (not lines[-1])
    start = data.draw(st.integers(1, num_lines + 1))
    end = data.draw(st.sampled_from([-1, num_lines + 1]) | st.integers(start - 1, num_lines))
    last = num_lines if end in (-1, num_lines + 1) else end
    added = text.removesuffix("\n").split("\n") if text else []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "f.txt"
        path.write_bytes(content.encode())
        status, output = run(edit_lines("f.txt", start, end, text), Path(name))
        assert status == 0, output
        assert path.read_bytes() == "\n".join([*lines[: start - 1], *added, *lines[last:]]).encode()
        status, _ = run(edit_undo("f.txt"), Path(name))
        assert status == 0
        assert path.read_bytes() == content.encode()


def test_lines_prints_a_snippet(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("".join(f"{i}\n" for i in range(1, 21)))
    status, output = run(edit_lines("f", 10, 11, "ten\n"), tmp_path)
    assert status == 0
    first, *shown, review = output.rstrip("\n").split("\n")
    assert first == "The file f has been edited. Here's the result of running `cat -n` on a snippet of the edited file:"
    # Four lines before the place, the new text, four lines after.
    texts = ["6", "7", "8", "9", "ten", "12", "13", "14", "15"]
    assert shown == [f"{number:6}\t{text}" for number, text in enumerate(texts, 6)]
    assert "(correct indentation, no duplicate lines, etc)" in review


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (0, 2, "Its first element `0` should be within the range of lines of the file: [1, 3]"),
        (5, 5, "Its first element `5` should be within the range of lines of the file: [1, 3]"),
        (2, 9, "Its second element `9` should be -1, or within [1, 3]"),
        (3, 1, "Its second element `1` should be -1, or within [2, 3]"),
    ],
)
def test_lines_refuses_a_wrong_range(tmp_path: Path, start: int, end: int, said: str) -> None:
    (tmp_path / "f").write_text("1\n2\n3\n")
    assert run(edit_lines("f", start, end, "x"), tmp_path) == (1, f"Invalid line range: [{start}, {end}]. {said}\n")
    assert (tmp_path / "f").read_text() == "1\n2\n3\n"


def test_lines_can_append_and_take_all_away(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("1\n")
    assert run(edit_lines("f", 2, 1, "2"), tmp_path)[0] == 0
    assert path.read_text() == "1\n2\n"
    assert run(edit_lines("f", 1, -1, ""), tmp_path)[0] == 0
    assert path.read_text() == ""
    assert run(edit_lines("f", 1, 1, "x"), tmp_path)[0] == 0
    assert path.read_text() == "x\n"


def test_view_numbers_lines_six_wide(tmp_path: Path) -> None:
    (tmp_path / "a b.py").write_text("one\n\ttwo\nthree\n")
    head = "Here's the result of running `cat -n` on a b.py:\n"
    whole = head + "     1\tone\n     2\t\ttwo\n     3\tthree\n     4\t\n"
    assert run(edit_view("a b.py"), tmp_path) == (0, whole)
    assert run(edit_view("a b.py", 2, 3), tmp_path) == (0, head + "     2\t\ttwo\n     3\tthree\n")
    assert run(edit_view("a b.py", 3, -1), tmp_path) == (0, head + "     3\tthree\n     4\t\n")


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (0, 2, "It's first element `0` should be within the range of lines of the file: [1, 4]"),
        (2, 9, "It's second element `9` should be smaller than the number of lines in the file: `4`"),
        (3, 2, "It's second element `2` should be larger or equal than its first `3`"),
    ],
)
def test_view_refuses_a_wrong_range(tmp_path: Path, start: int, end: int, said: str) -> None:
    (tmp_path / "f").write_text("1\n2\n3\n")
    assert run(edit_view("f", start, end), tmp_path) == (1, f"Invalid `view_range`: [{start}, {end}]. {said}\n")


def test_view_lists_a_folder_two_levels_deep(tmp_path: Path) -> None:
    for name in ("repo/a/b/c.py", "repo/a/d.py", "repo/.git/config", "repo/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    head = "Here's the files and directories up to 2 levels deep in repo, excluding hidden items:\n"
    assert run("edit view repo", tmp_path) == (0, head + "repo\nrepo/a\nrepo/a/b\nrepo/a/d.py\nrepo/e.py\n")
    assert run("edit view repo 1 2", tmp_path)[0] == 1


def test_view_cuts_a_long_file(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("x" * 100_000)
    status, output = run("edit view long", tmp_path)
    assert status == 0
    assert 16_000 < len(output) < 17_000
    assert "<response clipped>" in output


def test_replace_prints_a_snippet(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("".join(f"{i}\n" for i in range(1, 21)))
    status, output = run(edit_replace("f", "10", "ten\nand more"), tmp_path)
    assert status == 0
    first, *shown, review = output.rstrip("\n").split("\n")
    assert first == "The file f has been edited. Here's the result of running `cat -n` on a snippet of f:"
    # Four lines before the place, the new text, four lines after.
    texts = ["6", "7", "8", "9", "ten", "and more", "11", "12", "13", "14"]
    assert shown == [f"{number:6}\t{text}" for number, text in enumerate(texts, 6)]
    assert review.startswith("Review the changes")


def test_replace_names_the_lines_of_several_occurrences(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\nx\ny\na\nx\ny\n")
    status, output = run(edit_replace("f", "x\ny", "z"), tmp_path)
    assert status == 1
    assert "Multiple occurrences of old_str `x\ny` in lines [2, 5]. Please ensure it is unique" in output
    assert (tmp_path / "f").read_text() == "a\nx\ny\na\nx\ny\n"


def test_replace_refuses_what_is_not_there_or_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    missing = "No replacement was performed, old_str `b` did not appear verbatim in f.\n"
    assert run(edit_replace("f", "b", "c"), tmp_path) == (1, missing)
    same = "No replacement was performed, old_str `a` is the same as new_str `a`.\n"
    assert run(edit_replace("f", "a", "a"), tmp_path) == (1, same)
    assert run(edit_replace("f", "", "c"), tmp_path)[0] == 1
    assert run(edit_replace("no", "a", "c"), tmp_path)[0] == 1
    assert run("edit replace f <<'EOF'\na\nEOF", tmp_path)[0] == 1
    assert run("edit undo f", tmp_path) == (1, "No edit history found for f.\n")


def test_windows_line_ends_stay(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\r\nb\r\nc\r\n")
    assert run(edit_replace("f", "a\nb", "x\ny\nz"), tmp_path)[0] == 0
    assert path.read_bytes() == b"x\r\ny\r\nz\r\nc\r\n"
    assert run(edit_insert("f", 1, "new"), tmp_path)[0] == 0
    assert path.read_bytes() == b"x\r\nnew\r\ny\r\nz\r\nc\r\n"
    assert run(edit_lines("f", 2, 2, "y\nnew\n"), tmp_path)[0] == 0
    assert path.read_bytes() == b"x\r\ny\r\nnew\r\ny\r\nz\r\nc\r\n"
    assert run("edit undo f && edit undo f && edit undo f", tmp_path)[0] == 0
    assert path.read_bytes() == b"a\r\nb\r\nc\r\n"


def test_bytes_that_are_no_utf8_stay_in_a_bare_locale(tmp_path: Path) -> None:
    path = tmp_path / "ü.txt"
    path.write_bytes(b"\xff\xfe caf\xe9 \r x\nold\n")
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, output = run(edit_replace("ü.txt", "old", "né"), tmp_path, **bare)
    assert status == 0, output
    assert path.read_bytes() == b"\xff\xfe caf\xe9 \r x\nn\xc3\xa9\n"
    assert "né" in output and "ü.txt" in output


def test_mode_and_links_stay(tmp_path: Path) -> None:
    target = tmp_path / "run.sh"
    target.write_text("echo a\n")
    target.chmod(0o755)
    (tmp_path / "link").symlink_to("run.sh")
    assert run(edit_replace("link", "a", "b"), tmp_path)[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert target.read_text() == "echo b\n"
    assert target.stat().st_mode & 0o777 == 0o755
    assert run(edit_undo("run.sh"), tmp_path)[0] == 0
    assert target.read_text() == "echo a\n"


def test_create_makes_folders_and_never_overwrites(tmp_path: Path) -> None:
    assert run(edit_create("deep/er/f", "a\n"), tmp_path)[0] == 0
    said = "File already exists at: deep/er/f. Cannot overwrite files using command `create`.\n"
    assert run(edit_create("deep/er/f", "b\n"), tmp_path) == (1, said)
    assert (tmp_path / "deep/er/f").read_text() == "a\n"


def test_a_path_that_looks_like_an_option(tmp_path: Path) -> None:
    assert run(edit_create("-n", "a"), tmp_path)[0] == 0
    assert (tmp_path / "-n").read_text() == "a"


@pytest.mark.parametrize("words", ["", "-h", "--help"])
def test_help(tmp_path: Path, words: str) -> None:
    status, output = run(f"edit {words}", tmp_path)
    assert status == 0
    assert "edit replace PATH" in output


@pytest.mark.parametrize(
    "words",
    [
        "fly f",
        "view",
        "view f 1",
        "view f x y",
        "insert f",
        "insert f x",
        "lines f 1",
        "lines f 1 x",
        "lines no 1 1",
        "undo f f",
        "create f g",
        "view no",
    ],
)
def test_wrong_use_fails_without_a_stack_trace(tmp_path: Path, words: str) -> None:
    (tmp_path / "f").write_text("a\n")
    status, output = run(f"edit {words} </dev/null", tmp_path)
    assert status == 1
    assert "Traceback" not in output
    assert output.strip()


def test_it_is_python_3_5() -> None:
    tree = ast.parse(EDIT.read_text(encoding="utf-8"), feature_version=(3, 5))
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, newer)]
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= sys.stdlib_module_names
    assert EDIT.stat().st_mode & 0o111
