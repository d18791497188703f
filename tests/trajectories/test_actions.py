"""Tool calls as commands. That the commands do what the calls did is tested in tests/docker_tools."""

import pytest

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import (
    clean_text,
    compile_call,
    compile_command,
    edit_create,
    edit_lines,
    edit_replace,
    edit_view,
)


@pytest.mark.parametrize(
    ("name", "arguments", "action"),
    [
        ("execute_bash", {"command": "ls -la\n"}, "ls -la"),
        ("bash", {"command": "cat <<'X'\na\nX", "timeout": None}, "cat <<'X'\na\nX"),
        ("str_replace_editor", {"command": "view", "path": "/r/a b.py"}, "edit view '/r/a b.py'"),
        ("str_replace_editor", {"command": "view", "path": "/r", "view_range": [3, 9]}, "edit view /r 3 9"),
        ("str_replace_editor", {"command": "view", "path": "/r", "view_range": "[3, -1]"}, "edit view /r 3 -1"),
        ("str_replace_editor", {"command": "view", "path": "/r", "view_range": "None"}, "edit view /r"),
        (
            "str_replace_editor",
            {"command": "create", "path": "/r/a", "file_text": "x\n", "old_str": None},
            "edit create /r/a <<'EOF'\nx\nEOF",
        ),
        (
            "str_replace_editor",
            {"command": "create", "path": "/r/a", "file_text": "x"},
            "edit create /r/a -n <<'EOF'\nx\nEOF",
        ),
        (
            "str_replace_editor",
            {"command": "str_replace", "path": "/r/a", "old_str": "x\ny", "new_str": "z"},
            "edit replace /r/a <<'EOF'\nx\ny\n=======\nz\nEOF",
        ),
        (
            "str_replace_editor",
            {"command": "str_replace", "path": "/r/a", "old_str": "x", "new_str": None},
            "edit replace /r/a <<'EOF'\nx\n=======\nEOF",
        ),
        (
            "str_replace_editor",
            {"command": "insert", "path": "/r/a", "insert_line": "4", "new_str": "x"},
            "edit insert /r/a 4 <<'EOF'\nx\nEOF",
        ),
        ("str_replace_editor", {"command": "undo_edit", "path": "/r/a"}, "edit undo /r/a"),
    ],
)
def test_a_call_is_one_command(name: str, arguments: dict[str, object], action: str) -> None:
    compiled = compile_call(name, arguments)
    assert (compiled.kind, compiled.action) == ("action", action)


def test_calls_that_are_no_command() -> None:
    assert compile_call("finish", {}).action == "submit"
    assert compile_call("finish", {"message": " Done. "}).thought == "Done."
    assert compile_call("think", {"thought": "Hm."}).thought == "Hm."
    assert compile_call("task_tracker", {"command": "plan"}).kind == "nothing"
    assert [compile_call("bash", {"command": key}).kind for key in ("", "ctrl+c", "C-d", "^C")] == ["control_key"] * 4


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("browse", {"url": "x"}, "unknown tool 'browse'"),
        ("str_replace_editor", {"command": "delete", "path": "/r"}, "unknown command 'delete'"),
        ("str_replace_editor", {"command": "view"}, "`path` must be text"),
        ("str_replace_editor", {"command": "view", "path": ""}, "`path` is empty"),
        ("str_replace_editor", {"command": "view", "path": "/r", "view_range": [1]}, "`view_range`"),
        ("str_replace_editor", {"command": "view", "path": "/r", "view_range": {"a": 1}}, "`view_range`"),
        ("str_replace_editor", {"command": "create", "path": "/r"}, "`file_text`"),
        ("str_replace_editor", {"command": "insert", "path": "/r", "new_str": "x"}, "`insert_line`"),
        (
            "str_replace_editor",
            {"command": "insert", "path": "/r", "insert_line": True, "new_str": "x"},
            "`insert_line`",
        ),
        ("bash", {"command": ["ls"]}, "`command` must be text, found list"),
    ],
)
def test_what_is_not_understood_is_named(name: str, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        compile_call(name, arguments)


@pytest.mark.parametrize(
    ("command", "before"),
    [
        ("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT", ""),
        ("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff --cached", ""),
        ("cd /testbed && echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat patch.txt", ""),
        ("git add -A; echo 'MINI_SWE_AGENT_FINAL_OUTPUT'", ""),
        ("rm x.py && echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT", "rm x.py"),
    ],
)
def test_the_marker_of_mini_swe_agent_submits(command: str, before: str) -> None:
    compiled = compile_command(command)
    assert (compiled.kind, compiled.action, compiled.before_submit) == ("submit", "submit", before)


@pytest.mark.parametrize("command", ["grep echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT x", "echo COMPLETE_TASK"])
def test_a_mention_of_the_marker_does_not_submit(command: str) -> None:
    assert compile_command(command).action == command


def test_payloads_that_hold_the_delimiter_or_the_separator() -> None:
    assert edit_create("f", "EOF\nEOF_2\n") == "edit create f <<'EOF_3'\nEOF\nEOF_2\nEOF_3"
    expected = "edit replace f --separator ======== <<'EOF'\na\n=======\n========\nb\nEOF"
    assert edit_replace("f", "a\n=======", "b") == expected


def test_lines_end_with_a_line_break() -> None:
    assert edit_lines("f", 2, 3, "a") == edit_lines("f", 2, 3, "a\n") == "edit lines f 2 3 <<'EOF'\na\nEOF"
    assert edit_lines("f", 2, -1, "") == "edit lines f 2 -1 <<'EOF'\nEOF"
    assert edit_lines("f", 2, 1, "\n") == "edit lines f 2 1 <<'EOF'\n\nEOF"


def test_view_to_the_end() -> None:
    assert edit_view("f", 5) == "edit view f 5 -1"


def test_text_that_utf8_cannot_hold() -> None:
    assert clean_text("a\ud800b\x00c") == "a\ufffdbc"
    assert clean_text("\ud83d\ude00") == "😀"
