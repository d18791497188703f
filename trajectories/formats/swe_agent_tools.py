"""SWE-agent's own commands -> actions: shell commands, or the in-container `edit` tool.

Source: SWE-agent/SWE-agent, `config/commands/*.sh` (0.x) and `tools/*/bin/*` (1.x).

| command | action |
|---|---|
| open, goto, scroll_up, scroll_down, set_cursors | `edit view PATH START END` with the lines that were shown |
| create | `edit create PATH`, with the one empty line that SWE-agent writes |
| edit A:B, edit between cursors, edit of the window (rewrite) | `edit lines PATH START END` |
| edit SEARCH REPLACE | `edit replace PATH`; the text must be unique in the file, not only in the window |
| insert | `edit insert PATH LINE` |
| find_file, search_dir, search_file, filemap | `find`, `grep` |

Rules:
- Paths are absolute where the working directory is known, because the tools print absolute ones.
- A window to the end of a file is `START -1`, a whole file has no numbers: nobody knows them before looking.
- What SWE-agent refused (a linter's syntax error, no open file, wrong use) changed and showed nothing. Our command
  might do it, so such a call is no action: `compile_tool` returns None. A file that is not there is no refusal:
  the command fails in the same way.
- Answers are put into the words of the command where that loses nothing; those of `search_dir` (numbers of matches
  per file) and `filemap` stay as they are.

Leaves out `str_replace_editor` and `submit` (`actions`), and how a line is split into commands (`swe_agent_turns`).
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import edit_create, edit_insert, edit_lines, edit_replace, edit_view
from srl_swe.trajectories.formats.swe_agent_window import Answer, Viewer, Window, edited_output, view_output

_CONTEXT_LINES = 4
"""What `edit` shows on both sides of an edit."""
_WINDOW_LINES = 100
"""SWE-agent's WINDOW, where none was seen."""
_REFUSED = re.compile(
    r"^(?:Usage: (?!search_file)|No file open|goto allows only one line|Error: <line|Error: Text not found"
    r"|Error: .* is a directory\. You can only open files|Your proposed edit has introduced new syntax error"
    r"|Your edit was not applied|Your search and replace strings are the same|Search text must not be empty)",
    re.MULTILINE,
)
_REPLACED = re.compile(r"^Replaced (\d{1,9}) occurrences", re.MULTILINE)
_EDITED = re.compile(r"^(?:File updated|Text replaced|Replaced \d|Edit successful)", re.MULTILINE)
_FOUND = re.compile(r'Found \d+ matches for ".*" in .*:\n')
_FOUND_LINE = re.compile(r"^Line (\d+):", re.MULTILINE)
_END_OF_MATCHES = re.compile(r'\n?End of matches for ".*" in [^\n]*\s*$')
_UNSUPPORTED = re.compile(
    r"append|do_nothing|view_image|decompile|disassemble|semantic_search|(?:connect|debug)_\w+|\w+_(?:site|mouse|page)"
    r"|type_text|navigate_(?:back|forward)|get_console_output|wait_time|set_browser_window_size"
)
"""Images, a browser, and the debugger and connections of SWE-agent's security challenges (0.7)."""
_RANGE = re.compile(r"(\d{1,9}):(\d{1,9})")
_OPERATORS = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "<", "2>&1", "2>/dev/null"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolAction:
    """What one of SWE-agent's commands means."""

    action: str
    observation: str | None = None
    """The answer in the words of `action`; None = as it was recorded."""
    exit_code: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LineEdit:
    """`edit A:B` or `edit` of 0.x, with the lines up to `end_of_edit`."""

    lines: tuple[int, int] | None
    """None = those between the cursors."""
    text: str


def is_tool(name: str) -> bool:
    """Tell whether the first word of a command line names a command of SWE-agent's own."""
    return name in TOOLS or _UNSUPPORTED.fullmatch(name) is not None


def compile_tool(words: Sequence[str], viewer: Viewer, answer: Answer) -> ToolAction | None:
    """Compile a command line of SWE-agent's own, and follow in `viewer` what it did; None = SWE-agent refused it.

    Raises:
        DataError: no action means the same.
    """
    if words[0] not in TOOLS:
        raise DataError(f"{words[0]}: a tool of SWE-agent that no shell command stands for")
    if any(word in _OPERATORS for word in words):
        raise DataError(f"{words[0]}: a command of SWE-agent with a pipe or another shell operator is not understood")
    return None if answer.says(_REFUSED) else TOOLS[words[0]](words, viewer, answer)


def compile_line_edit(edit: LineEdit, viewer: Viewer, answer: Answer) -> ToolAction | None:
    """Compile an edit of lines, and follow in `viewer` what it did; None = SWE-agent refused it.

    SWE-agent cuts a range at the end of the file. How long the file was shows in the window after the edit.

    Raises:
        DataError: no action means the same.
    """
    if answer.says(_REFUSED):
        return None
    start, end = edit.lines or (max(1, viewer.cursors[0]), max(0, viewer.cursors[1]))
    if end < start - 1 or start < 1:
        raise DataError(f"edit {start}:{end}: expected a first line of 1 or more and a last line not before it")
    path, window = _edited_file(viewer, answer)
    if path is None:
        return None
    num_added = edit.text.count("\n")
    if window is not None:
        num_kept = window.num_lines - num_added
        if num_kept < start - 1:
            start, end = max(1, num_kept + 1), -1
        elif num_kept == start - 1 and (viewer.window is None or end > viewer.window.num_lines):
            end = -1
    action = edit_lines(path, start, end, edit.text)
    if window is None:
        return ToolAction(action=action)
    viewer.show(window)
    if edit.lines is None:
        viewer.cursors = window.cursors or (start, max(start, start + num_added - 1))
    return _edited(action, path, window, start, num_added)


def _edited_file(viewer: Viewer, answer: Answer) -> tuple[str | None, Window | None]:
    """Return the file that an edit changed and the window after it; no path = the answer tells of no edit."""
    window = answer.take_window()
    if window is None and answer.text is not None and not answer.says(_EDITED):
        return None, None
    path = (
        viewer.open_file
        if window is None
        else Viewer(working_dir=viewer.working_dir, open_file=viewer.open_file).show(window)
    )
    if not path:
        raise DataError("an edit, but which file is open is not told")
    return path, window


def _edited(action: str, path: str, window: Window, start: int, num_added: int) -> ToolAction:
    first, last = start - _CONTEXT_LINES, start + num_added - 1 + _CONTEXT_LINES
    return ToolAction(action=action, observation=edited_output(path, window, first, last), exit_code=0)


def _shown(viewer: Viewer, window: Window) -> ToolAction:
    path = viewer.show(window)
    if window.first == 1 and window.reaches_end:
        action = edit_view(path)
    else:
        action = edit_view(path, window.first, None if window.reaches_end else window.last)
    return ToolAction(action=action, observation=view_output(path, window), exit_code=0)


def _open(words: Sequence[str], viewer: Viewer, answer: Answer) -> ToolAction | None:
    window = answer.take_window()
    if window is not None:
        return _shown(viewer, window)
    if len(words) < 2:
        return None
    path = viewer.absolute(words[1])
    return ToolAction(
        action=edit_view(path), exit_code=1 if answer.says(r"(?m)^(?:Error: )?File .* not found") else None
    )


def _move(words: Sequence[str], viewer: Viewer, answer: Answer) -> ToolAction | None:
    window = answer.take_window()
    if window is None:
        return None
    compiled = _shown(viewer, window)
    if words[0] == "set_cursors" and window.cursors is None and all(word.isdecimal() for word in words[1:3]):
        viewer.cursors = (int(words[1][:9]), int(words[2][:9])) if len(words) == 3 else viewer.cursors
    return compiled


def _create(words: Sequence[str], viewer: Viewer, answer: Answer) -> ToolAction | None:
    if len(words) < 2:
        return None
    window = answer.take_window()
    path = viewer.absolute(words[1]) if window is None else viewer.show(window)
    action = edit_create(path, "\n")
    if answer.says(r"(?m)^Error: File .* already exists"):
        return ToolAction(action=action, exit_code=1)
    if window is None:
        return None if answer.text is not None else ToolAction(action=action)
    return ToolAction(action=action, observation=f"File created successfully at: {path}", exit_code=0)


def _edit(words: Sequence[str], viewer: Viewer, answer: Answer) -> ToolAction | None:
    lines = _RANGE.fullmatch(words[1]) if len(words) > 1 else None
    if lines and len(words) == 3 and not answer.says(r"(?m)^(?:Text replaced|Replaced \d)"):
        text = words[2] if not words[2] or words[2].endswith("\n") else f"{words[2]}\n"
        edit = LineEdit(lines=(int(lines.group(1)), int(lines.group(2))), text=text)
        return compile_line_edit(edit, viewer, answer)
    if len(words) == 2 and not lines:
        return _rewrite(words[1], viewer, answer)
    if len(words) not in (3, 4):
        raise DataError(f"edit: expected lines up to `end_of_edit`, or one to three words, found {len(words) - 1}")
    path, window = _edited_file(viewer, answer)
    if path is None:
        return None
    replaced = _REPLACED.search(answer.text or "")
    if replaced and int(replaced.group(1)) != 1:
        raise DataError(f"edit: it replaced {replaced.group(1)} occurrences, and no command of `edit` does that")
    action = edit_replace(path, words[1], words[2])
    if window is None:
        return ToolAction(action=action)
    viewer.show(window)
    index = "\n".join(window.lines).find(words[2]) if words[2] else -1
    if index < 0:
        return ToolAction(action=action, exit_code=0)
    line = window.first + "\n".join(window.lines)[:index].count("\n")
    last = line + _CONTEXT_LINES + words[2].count("\n")
    observation = edited_output(path, window, line - _CONTEXT_LINES, last, by_text=True)
    return ToolAction(action=action, observation=observation, exit_code=0)


def _rewrite(text: str, viewer: Viewer, answer: Answer) -> ToolAction | None:
    """Compile 1.x's edit that puts a text in the place of all lines shown."""
    path, _ = _edited_file(viewer, answer)
    if path is None:
        return None
    shown = viewer.window
    if shown is None:
        raise DataError("edit of the window, but which lines it showed is not told")
    num_added = text.count("\n") + 1 if text else 0
    num_lines = shown.num_lines - (shown.last - shown.first + 1) + num_added
    size = _WINDOW_LINES if shown.reaches_end and shown.first == 1 else shown.last - shown.first + 1
    first = max(1, min(shown.first, num_lines - size + 1))
    last = min(first + size - 1, num_lines)
    viewer.window = Window(path=path, num_lines=num_lines, first=first, last=last, lines=())
    action = edit_lines(path, shown.first, shown.last, f"{text}\n" if text else "")
    return ToolAction(action=action, exit_code=0 if answer.says(_EDITED) else None)


def _insert(words: Sequence[str], viewer: Viewer, answer: Answer) -> ToolAction | None:
    if len(words) not in (2, 3) or (len(words) == 3 and not re.fullmatch(r"-?\d{1,9}", words[2])):
        raise DataError(f"insert: expected a text and perhaps a line number, found {len(words) - 1} words")
    window = answer.take_window()
    if window is None and answer.text is not None:
        return None
    text = words[1].removesuffix("\n")
    num_added = text.count("\n") + 1
    if window is not None:
        viewer.show(window)
    num_before = window.num_lines - num_added if window else viewer.window.num_lines if viewer.window else None
    if not viewer.open_file or num_before is None:
        raise DataError("insert, but which file is open, or how long it is, is not told")
    line = max(0, min(int(words[2]), num_before) if len(words) == 3 else num_before)
    action = edit_insert(viewer.open_file, line, text)
    if window is None:
        return ToolAction(action=action)
    return _edited(action, viewer.open_file, window, line + 1, num_added)


def _find_file(words: Sequence[str], viewer: Viewer, answer: Answer) -> ToolAction | None:
    if len(words) not in (2, 3):
        raise DataError(f"find_file: expected a name and perhaps a folder, found {len(words) - 1} words")
    folder = viewer.absolute(words[2] if len(words) == 3 else ".")
    action = f"find {shlex.quote(folder)} -type f -name {shlex.quote(words[1])}"
    if answer.text is None or answer.says(r"^Directory .* not found"):
        return ToolAction(action=action, exit_code=None if answer.text is None else 1)
    if answer.says(r"^No matches found"):
        return ToolAction(action=action, observation="", exit_code=0)
    found = _FOUND.match(answer.text)
    return ToolAction(action=action, observation=answer.text[found.end() :] if found else None, exit_code=0)


def _search_dir(words: Sequence[str], viewer: Viewer, answer: Answer) -> ToolAction | None:
    if len(words) not in (2, 3):
        raise DataError(f"search_dir: expected a term and perhaps a folder, found {len(words) - 1} words")
    folder = viewer.absolute(words[2] if len(words) == 3 else ".")
    return _grep(f"grep -rnI {_pattern(words[1])} {shlex.quote(folder)}", answer)


def _search_file(words: Sequence[str], viewer: Viewer, answer: Answer) -> ToolAction | None:
    if len(words) not in (2, 3):
        raise DataError(f"search_file: expected a term and perhaps a file, found {len(words) - 1} words")
    path = viewer.absolute(words[2]) if len(words) == 3 else viewer.open_file
    if not path:
        raise DataError("search_file, but which file is open is not told")
    compiled = _grep(f"grep -n {_pattern(words[1])} {shlex.quote(path)}", answer)
    if answer.text is None or not (found := _FOUND.match(answer.text)):
        return compiled
    lines = _END_OF_MATCHES.sub("", answer.text[found.end() :])
    return replace(compiled, observation=_FOUND_LINE.sub(r"\1:", lines))


def _filemap(words: Sequence[str], viewer: Viewer, answer: Answer) -> ToolAction | None:
    if len(words) != 2:
        raise DataError(f"filemap: expected a file, found {len(words) - 1} words")
    return ToolAction(action=f"grep -nE '^ *(class|def|async def) ' {shlex.quote(viewer.absolute(words[1]))}")


def _grep(action: str, answer: Answer) -> ToolAction:
    if answer.says(r"^No matches found"):
        return ToolAction(action=action, observation="", exit_code=1)
    if answer.says(r"^Directory .* not found|^Error: File name .* not found|\nError: File name .* not found"):
        return ToolAction(action=action, exit_code=2)
    return ToolAction(action=action, exit_code=0 if answer.says(r"^Found \d") else None)


def _pattern(term: str) -> str:
    return f"-e {shlex.quote(term)}" if term.startswith("-") else shlex.quote(term)


TOOLS: Mapping[str, Callable[[Sequence[str], Viewer, Answer], ToolAction | None]] = {
    "open": _open,
    "goto": _move,
    "scroll_up": _move,
    "scroll_down": _move,
    "set_cursors": _move,
    "create": _create,
    "edit": _edit,
    "insert": _insert,
    "find_file": _find_file,
    "search_dir": _search_dir,
    "search_file": _search_file,
    "filemap": _filemap,
}
"""The commands that actions stand for, by name."""
