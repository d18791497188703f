"""Python cells of OpenHands' notebook (`execute_ipython_cell`) -> calls and shell commands that do the same.

In 2024 OpenHands' editor was a set of functions in that notebook (openhands/runtime/plugins/agent_skills: `file_ops`,
`file_editor`). Holds their meaning as calls that `actions` knows, and the rule for every other cell: it is a program
for `python3` where it uses no name that an earlier cell defined. Leaves out the commands themselves (`actions`).
"""

import ast
import builtins
import re
import shlex
import warnings
from collections.abc import Mapping

from srl_swe.errors import DataError

CellCall = tuple[str, dict[str, object]]
"""Name and arguments of a call."""

_SKILLS: Mapping[str, tuple[str, ...]] = {
    "open_file": ("path", "line_number", "context_lines"),
    "goto_line": ("line_number",),
    "scroll_down": (),
    "scroll_up": (),
    "create_file": ("filename",),
    "edit_file_by_replace": ("file_name", "to_replace", "new_content"),
    "edit_file_by_line": ("file_name", "start", "end", "content"),
    "edit_file": ("file_name", "start", "end", "content"),
    "insert_content_at_line": ("file_name", "line_number", "content"),
    "append_file": ("file_name", "content"),
    "search_dir": ("search_term", "dir_path"),
    "search_file": ("search_term", "file_path"),
    "find_file": ("file_name", "dir_path"),
    "file_editor": ("command", "path", "file_text", "view_range", "old_str", "new_str", "insert_line"),
}
"""The functions and the names of their parameters, in order."""
_SKILL_MODULES = ("agentskills", "agent_skills", "file_ops", "file_editor")
_WINDOW_SKILLS = ("open_file", "goto_line", "scroll_down", "scroll_up")
_WINDOW = re.compile(r"\[File: (?P<path>/.*?) \((?P<total>\d+) lines total(?: after edit)?\)\]\s*")
_ABOVE = re.compile(r"\((\d+) more lines? above\)")
_BELOW = re.compile(r"\((\d+) more lines? below\)")
_HALF_WINDOW = 50
_PATTERN_SIGN = re.compile(r"[\\.*\[\]^$]")
_SHELL_LINE = re.compile(r"\s*(?:!|%(?=pip\s|conda\s))(.*)")
_NAMED_NODES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar
_KNOWN_NAMES = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}


def calls_of_cell(code: str, *, observation: str = "") -> list[CellCall]:
    """Return the calls that do what a cell does.

    Args:
        code: The cell.
        observation: The recorded answer, which tells the lines that a window function showed; "" = none.

    Raises:
        DataError: the cell uses names of earlier cells, is no Python, or calls a function in a way that is not
            understood.

    >>> calls_of_cell("print(1)")
    [('bash', {'command': "python3 - <<'EOF'\\nprint(1)\\nEOF"})]
    >>> calls_of_cell("edit_file_by_replace('/r/a.py', 'x', new_content='y')")
    [('str_replace_editor', {'command': 'str_replace', 'path': '/r/a.py', 'old_str': 'x', 'new_str': 'y'})]
    """
    shell = _shell_lines(code)
    if shell is not None:
        return [("bash", {"command": shell})]
    body = _parsed(code).body
    values: dict[str, object] = {}
    calls: list[CellCall] = []
    for statement in body:
        if _is_skills_import(statement) or _is_constant(statement, values):
            continue
        skill = _skill(statement, values)
        if skill is None:
            if calls:
                raise DataError("a cell mixes editor functions with other Python; expected one or the other")
            return [("bash", {"command": _program(code)})]
        calls.append(_call_of_skill(*skill, observation))
    return calls or [("bash", {"command": _program(code)})]


def shown_window(observation: str) -> tuple[str, int, int, int] | None:
    """Return (path, first line, last line, lines of the file) that a 2024 viewer says it shows, or None."""
    found = _WINDOW.search(observation)
    if not found:
        return None
    total = int(found["total"])
    above = _ABOVE.match(observation, found.end())
    below = _BELOW.findall(observation, found.end())
    first = int(above.group(1)) + 1 if above else 1
    last = total - int(below[-1]) if below else total
    return (found["path"], first, last, total) if 1 <= first <= last else None


def _shell_lines(code: str) -> str | None:
    """Return the shell commands of a cell that holds nothing else (`!ls`, `%pip install x`, `%%bash`)."""
    head, _, rest = code.strip().partition("\n")
    if head.strip() in ("%%bash", "%%sh"):
        return rest
    lines = [_SHELL_LINE.fullmatch(line) for line in code.strip().split("\n") if line.strip()]
    if not lines or None in lines:
        return None
    return "\n".join(line.group(1) for line in lines if line)


def _parsed(code: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"a cell is not Python alone: {str(error)[:80]}") from None


def _is_skills_import(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[-1] in _SKILL_MODULES


def _is_constant(statement: ast.stmt, values: dict[str, object]) -> bool:
    """Tell whether a statement names a constant, and keep its value: functions are often called with such names."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return False
    target = statement.targets[0]
    if not isinstance(target, ast.Name):
        return False
    try:
        values[target.id] = ast.literal_eval(statement.value)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True


def _skill(statement: ast.stmt, values: Mapping[str, object]) -> tuple[str, dict[str, object]] | None:
    """Return the function that a statement calls, with its arguments by name; None = it calls none of them."""
    node = statement.value if isinstance(statement, ast.Expr) else None
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
        node = node.args[0] if len(node.args) == 1 else None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in _SKILLS:
        return None
    name, parameters = node.func.id, _SKILLS[node.func.id]
    if len(node.args) > len(parameters):
        raise DataError(f"{name}: expected at most {len(parameters)} arguments, found {len(node.args)}")
    arguments = {key: _value(name, item, values) for key, item in zip(parameters, node.args, strict=False)}
    for keyword in node.keywords:
        value = _value(name, keyword.value, values)
        if keyword.arg is not None:
            arguments[keyword.arg] = value
        elif isinstance(value, dict):
            arguments.update({str(key): item for key, item in value.items()})
    return name, arguments


def _value(name: str, node: ast.expr, values: Mapping[str, object]) -> object:
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise DataError(f"{name}: expected constants as arguments, found {type(node).__name__}") from None


def _call_of_skill(name: str, arguments: dict[str, object], observation: str) -> CellCall:
    if name == "file_editor":
        return "str_replace_editor", arguments
    if name in _WINDOW_SKILLS:
        return "str_replace_editor", _view(name, arguments, observation)
    if name in ("search_dir", "search_file", "find_file"):
        return "bash", {"command": _search(name, arguments)}
    path = arguments.get("filename" if name == "create_file" else "file_name")
    if name == "create_file":
        return "str_replace_editor", {"command": "create", "path": path, "file_text": "\n"}
    if name == "edit_file_by_replace":
        old, new = arguments.get("to_replace"), arguments.get("new_content")
        return "str_replace_editor", {"command": "str_replace", "path": path, "old_str": old, "new_str": new}
    if name == "insert_content_at_line":
        line = arguments.get("line_number")
        before = line - 1 if isinstance(line, int) else line
        return "str_replace_editor", {
            "command": "insert",
            "path": path,
            "insert_line": before,
            "new_str": _without_line_end(arguments.get("content")),
        }
    start, end = (-1, -1) if name == "append_file" else (arguments.get("start", 1), arguments.get("end", -1))
    content = arguments.get("content")
    return "edit_file", {"path": path, "content": content, "start": start, "end": end, "is_exact": True}


def _without_line_end(content: object) -> object:
    return content.removesuffix("\n") if isinstance(content, str) else content


def _view(name: str, arguments: Mapping[str, object], observation: str) -> dict[str, object]:
    window = shown_window(observation)
    if window:
        path, first, last, total = window
        whole = (first, last) == (1, total)
        return {"command": "view", "path": path, "view_range": None if whole else [first, last]}
    if name != "open_file":
        raise DataError(
            f"{name}: the answer does not say which lines were shown; expected `[File: PATH (N lines total)]`"
        )
    line = arguments.get("line_number", 1)
    far = isinstance(line, int) and line > _HALF_WINDOW
    view_range = [line - _HALF_WINDOW, -1] if isinstance(line, int) and far else None
    return {"command": "view", "path": arguments.get("path"), "view_range": view_range}


def _search(name: str, arguments: Mapping[str, object]) -> str:
    """Return the command of a search: the functions look for plain text, and skip nothing but hidden files."""
    what = arguments.get("file_name" if name == "find_file" else "search_term")
    where = arguments.get("file_path") if name == "search_file" else arguments.get("dir_path", "./")
    if not isinstance(what, str) or not isinstance(where, str):
        raise DataError(f"{name}: expected two texts (what and where), found {what!r} and {where!r}"[:200])
    folder = shlex.quote(f"./{where}" if where.startswith("-") else where)
    if name == "find_file":
        return f"find {folder} -type f -name {shlex.quote(f'*{what}*')}"
    options = ("n" if name == "search_file" else "rnI") + ("F" if _PATTERN_SIGN.search(what) else "")
    return f"grep -{options} {'-e ' if what.startswith('-') else ''}{shlex.quote(what)} {folder}"


def _program(code: str) -> str:
    """Return the command that runs a cell in a fresh interpreter.

    Raises:
        DataError: it uses names that only an earlier cell can have defined.
    """
    module = _parsed(code)
    names = _free_names(module)
    if names:
        raise DataError(f"a cell uses names of earlier cells: {', '.join(sorted(names)[:5])}")
    lines = _with_last_value(module, code).strip("\n").split("\n")
    delimiter = "EOF"
    while delimiter in lines:
        delimiter += "_2"
    return "\n".join([f"python3 - <<'{delimiter}'", *lines, delimiter])


def _with_last_value(module: ast.Module, code: str) -> str:
    """Print the last value of a cell, as a notebook does, where it is a plain expression on lines of its own."""
    last = module.body[-1] if module.body else None
    if not isinstance(last, ast.Expr) or isinstance(last.value, ast.Call | ast.Constant | ast.Await | ast.Yield):
        return code
    if len(module.body) > 1 and module.body[-2].end_lineno == last.lineno:
        return code
    segment = ast.get_source_segment(code, last.value)
    before = code.split("\n")[: last.lineno - 1]
    return "\n".join([*before, f"print({segment})"])


def _free_names(module: ast.Module) -> set[str]:
    bound: set[str] = set(_KNOWN_NAMES)
    used: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, _NAMED_NODES) and node.name:
            bound.add(node.name)
    return used - bound
