"""Tool calls of published agents -> actions: shell commands that run as they stand in the container.

Holds the command lines of the in-container `edit` tool and the meaning of every known call. Leaves out how calls are
found in a file (`formats`) and what happens to a call that is not understood (`formats.assemble`).
"""

import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from srl_swe.errors import DataError
from srl_swe.trajectories.cells import calls_of_cell

SUBMIT = "submit"
"""The action that ends an episode."""

CONTROL_KEY = re.compile(r"(?:ctrl|control|c)[+-][a-z]|\^[a-z]", re.IGNORECASE)
"""A key press for a running process, as OpenHands and SWE-agent write it: `ctrl+c`, `C-c`, `^C`."""

_MINI_MARKER = (
    r"echo[ \t]+(['\"]?)(?:COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT|MINI_SWE_AGENT_FINAL_OUTPUT)\1(?=\s|;|&|\||$)"
)
_MINI_SUBMIT = re.compile(rf"(?:^|&&|\|\||;|\n)[ \t\r]*{_MINI_MARKER}")
_HARMLESS_BEFORE_SUBMIT = re.compile(r"(?:cd|git add|git diff|git status|cat)\b[^;&|]*")
BASH_NAMES = frozenset({"bash", "execute_bash", "execute", "terminal"})
"""Tools whose `command` is a shell command."""
CELL_NAMES = frozenset({"execute_ipython_cell"})
"""Tools whose `code` is a cell of OpenHands' Python notebook."""
DRAFT_NAMES = frozenset({"edit_file"})
"""OpenHands' editor that has a second model work a draft into the file."""
_EDITOR_NAMES = frozenset({"str_replace_editor", "str_replace_based_edit_tool", "edit_anthropic", "file_editor"})
_SUBMIT_NAMES = frozenset({"submit", "finish"})
_THOUGHT_NAMES = frozenset({"think"})
_NOTHING_NAMES = frozenset({"task_tracker", "task_tracking", "request_condensation"})
_BROWSER_NAMES = frozenset({"browser", "browse", "browse_interactive", "web_read", "delegate_to_browsing_agent"})
_LEFT_OUT = re.compile(
    r"^[ \t]*(?:\.\.\.[ \t]*$|(?:#|//|/\*|--|<!--)[ \t]*"
    r"(?:\.\.\.|.{0,40}\b(?:unchanged|no changes|existing code|rest of)\b))",
    re.IGNORECASE | re.MULTILINE,
)
"""A line of a draft that stands for lines which the draft does not repeat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledCall:
    """What a tool call means as an action."""

    kind: Literal["action", "submit", "thought", "control_key", "process_input", "nothing"]
    action: str = ""
    """The shell command; `SUBMIT` for kind "submit"; empty for the other kinds."""
    thought: str = ""
    """Words of the agent that the call carried, for example the message of `finish`."""
    before_submit: str = ""
    """For kind "submit": work that the same command did first, an action of its own."""


def clean_text(text: str) -> str:
    """Replace lone surrogates by U+FFFD and drop NUL bytes, which neither UTF-8 files nor shells can hold.

    Surrogate pairs that a JSON writer left apart are joined: "\\ud83d\\ude00" becomes one character.
    """
    if text.isascii():
        return text.replace("\x00", "")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\x00", "")


def edit_view(path: str, start: int | None = None, end: int | None = None) -> str:
    """Return the command that shows a file, or a folder two levels deep. Lines count from 1; end -1 = to the last."""
    if start is None:
        return f"edit view {_quote_path(path)}"
    return f"edit view {_quote_path(path)} {start} {-1 if end is None else end}"


def edit_create(path: str, file_text: str) -> str:
    """Return the command that writes a new file.

    >>> print(edit_create("a.txt", "one\\n"))
    edit create a.txt <<'EOF'
    one
    EOF
    """
    if not file_text or file_text.endswith("\n"):
        return f"edit create {_quote_path(path)} {_here_document(file_text)}"
    return f"edit create {_quote_path(path)} -n {_here_document(file_text + chr(10))}"


def edit_replace(path: str, old: str, new: str) -> str:
    """Return the command that replaces the only occurrence of `old`.

    >>> print(edit_replace("a.txt", "one", "two"))
    edit replace a.txt <<'EOF'
    one
    =======
    two
    EOF
    """
    separator = "======="
    taken = set(old.split("\n")) | set(new.split("\n"))
    while separator in taken:
        separator += "="
    option = "" if separator == "=======" else f" --separator {separator}"
    payload = f"{old}\n{separator}\n" + (f"{new}\n" if new else "")
    return f"edit replace {_quote_path(path)}{option} {_here_document(payload)}"


def edit_insert(path: str, line: int, text: str) -> str:
    """Return the command that inserts `text` as lines of their own after line `line` (0 = at the start)."""
    return f"edit insert {_quote_path(path)} {line} {_here_document(text + chr(10))}"


def edit_lines(path: str, start: int, end: int, text: str) -> str:
    """Return the command that puts whole lines of text in the place of the lines `start` to `end`.

    Args:
        path: The file.
        start: First line that goes, from 1.
        end: Last line that goes; `start - 1` = none goes, -1 = to the end of the file.
        text: What comes; empty = nothing. A missing final line break is added.

    >>> print(edit_lines("a.txt", 2, 3, "two"))
    edit lines a.txt 2 3 <<'EOF'
    two
    EOF
    """
    payload = text if not text or text.endswith("\n") else f"{text}\n"
    return f"edit lines {_quote_path(path)} {start} {end} {_here_document(payload)}"


def edit_undo(path: str) -> str:
    """Return the command that takes back the last edit of a file."""
    return f"edit undo {_quote_path(path)}"


def compile_call(
    name: str, arguments: Mapping[str, object], *, working_dir: str = "", observation: str = ""
) -> CompiledCall:
    """Compile one tool call.

    Args:
        name: The tool.
        arguments: By name.
        working_dir: Where the shell stands, which an editor's relative path starts from; "" = not known.
        observation: The recorded answer, which tells what a call did that names no lines (`scroll_down` in a cell).

    Raises:
        DataError: the tool, its command or an argument is not understood; the message names it.
    """
    if name in BASH_NAMES:
        compiled = compile_command(_text(name, arguments, "command", default=""))
        if str(arguments.get("is_input") or "").lower() == "true" and compiled.kind == "action":
            return CompiledCall(kind="process_input")
        return compiled
    if name in _EDITOR_NAMES or name in DRAFT_NAMES:
        compile_edit = _compile_draft if name in DRAFT_NAMES else _compile_editor_call
        return CompiledCall(kind="action", action=compile_edit(name, _with_absolute_path(arguments, working_dir)))
    if name in CELL_NAMES:
        calls = calls_of_cell(_text(name, arguments, "code"), observation=observation)
        commands = [compile_call(*call, working_dir=working_dir) for call in calls]
        return compile_command("\n".join(command.action for command in commands))
    if name in _SUBMIT_NAMES:
        return CompiledCall(kind="submit", action=SUBMIT, thought=_text(name, arguments, "message", default="").strip())
    if name in _THOUGHT_NAMES:
        return CompiledCall(kind="thought", thought=_text(name, arguments, "thought", default="").strip())
    if name in _NOTHING_NAMES:
        return CompiledCall(kind="nothing")
    if name in _BROWSER_NAMES:
        raise DataError(f"unknown tool {name!r} to a shell: no command stands for a browser")
    known = sorted(
        BASH_NAMES | CELL_NAMES | DRAFT_NAMES | _EDITOR_NAMES | _SUBMIT_NAMES | _THOUGHT_NAMES | _NOTHING_NAMES
    )
    raise DataError(f"unknown tool {name!r}; known are {', '.join(known)}")


def compile_command(command: str) -> CompiledCall:
    """Compile a bash command: itself, a submission, or a key press that no fresh command can stand for.

    mini-swe-agent submits by a command that prints a marker. Commands joined with it that only stage or print the
    patch belong to the submission, since `submit` collects the patch itself. Other work that comes first stays an
    action of its own: `rm x.py && echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT` is `rm x.py`, then `submit`.
    """
    command = clean_text(command).strip()
    if not command or CONTROL_KEY.fullmatch(command):
        return CompiledCall(kind="control_key")
    if command == SUBMIT:
        return CompiledCall(kind="submit", action=SUBMIT)
    found = _MINI_SUBMIT.search(command)
    if not found:
        return CompiledCall(kind="action", action=command)
    before = command[: found.start()].strip()
    parts = [part.strip() for part in re.split(r"&&|;|\n", before) if part.strip()]
    if all(_HARMLESS_BEFORE_SUBMIT.fullmatch(part) for part in parts):
        before = ""
    return CompiledCall(kind="submit", action=SUBMIT, before_submit=before)


def _with_absolute_path(arguments: Mapping[str, object], working_dir: str) -> Mapping[str, object]:
    path = arguments.get("path")
    if not working_dir.startswith("/") or not isinstance(path, str) or not path or path.startswith(("/", "~")):
        return arguments
    return {**arguments, "path": posixpath.normpath(posixpath.join(working_dir, path))}


def _compile_draft(name: str, arguments: Mapping[str, object]) -> str:
    """Compile a draft that says every line. `start` and `end` count from 1; both -1 = after the last line.

    A reader that knows what the file came to hold says so by `is_exact`.
    Source: OpenHands' tool `edit_file` (openhands/agenthub/codeact_agent/tools/llm_based_edit.py).
    """
    path = _text(name, arguments, "path")
    draft = _text(name, arguments, "content" if arguments.get("content") is not None else "new_content_draft")
    start, end = (
        default if arguments.get(field) is None else _whole_number(arguments[field])
        for field, default in (("start", 1), ("end", -1))
    )
    if not path or start is None or end is None or start == 0:
        raise DataError(
            f"{name}: expected a path and line numbers, found {path!r}, {arguments.get('start')!r}, "
            f"{arguments.get('end')!r}"
        )
    if arguments.get("is_exact") is not True and _LEFT_OUT.search(draft):
        raise DataError(f"{name}: the draft leaves lines out, which a second model filled in: no command does that")
    payload = draft if not draft or draft.endswith("\n") else f"{draft}\n"
    if start == -1:
        return f"cat >> {_quote_path(path)} {_here_document(payload)}"
    if (start, end) == (1, -1):
        return f"cat > {_quote_path(path)} {_here_document(payload)}"
    return edit_lines(path, start, end, draft)


def _compile_editor_call(name: str, arguments: Mapping[str, object]) -> str:
    command = _text(name, arguments, "command")
    path = _text(name, arguments, "path")
    if not path:
        raise DataError(f"{name} {command}: `path` is empty")
    if command == "view":
        start, end = _view_range(name, arguments.get("view_range"))
        return edit_view(path, start, end)
    if command == "create":
        return edit_create(path, _text(name, arguments, "file_text"))
    if command == "str_replace":
        return edit_replace(path, _text(name, arguments, "old_str"), _text(name, arguments, "new_str", default=""))
    if command == "insert":
        line = _whole_number(arguments.get("insert_line"))
        if line is None:
            raise DataError(
                f"{name} insert: `insert_line` must be a whole number, found {arguments.get('insert_line')!r}"
            )
        return edit_insert(path, line, _text(name, arguments, "new_str"))
    if command == "undo_edit":
        return edit_undo(path)
    raise DataError(f"{name}: unknown command {command!r}; known are view, create, str_replace, insert, undo_edit")


def _view_range(name: str, value: object) -> tuple[int | None, int | None]:
    if value is None or value in ("", "None", "null", []):
        return None, None
    if isinstance(value, str):
        value = re.findall(r"-?\d+", value)
    numbers = [_whole_number(item) for item in value] if isinstance(value, list) else []
    if len(numbers) != 2 or None in numbers:
        raise DataError(f"{name} view: `view_range` must be two whole numbers, found {value!r}")
    return numbers[0], numbers[1]


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
        return int(value) if isinstance(value, str) else int(number) if number == int(number) else None
    except (ValueError, OverflowError):
        return None


def _text(name: str, arguments: Mapping[str, object], field: str, default: str | None = None) -> str:
    value = arguments.get(field)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise DataError(f"{name}: `{field}` must be text, found {type(value).__name__}")
    return clean_text(value)


def _quote_path(path: str) -> str:
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def _here_document(payload: str) -> str:
    """Wrap a payload, which is empty or ends with a line break, so that the shell passes it on as it is."""
    lines = set(payload.split("\n"))
    delimiter = "EOF"
    count = 1
    while delimiter in lines:
        count += 1
        delimiter = f"EOF_{count}"
    return f"<<'{delimiter}'\n{payload}{delimiter}"
