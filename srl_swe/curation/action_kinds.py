"""What an action is for: one of a closed list of kinds, told from its shell text alone.

An action that does several things has the kind that comes first in the order of `ActionKind`: what changes the
work tree or tests it says more than what looks around. Leaves out whether the action succeeded.
"""

import posixpath
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

from srl_swe.trajectories.shell_words import SimpleCommand, after_option, simple_commands, without_wrappers


class ActionKind(StrEnum):
    """The kinds, the most telling first."""

    SUBMIT = "submit"
    EDIT_CREATE = "edit create"
    EDIT_REPLACE = "edit replace"
    EDIT_LINES = "edit lines"
    EDIT_INSERT = "edit insert"
    EDIT_UNDO = "edit undo"
    RUN_TESTS = "run tests"
    RUN_PYTHON = "run python"
    INSTALL = "install"
    FILES = "file operations"
    SEARCH = "search"
    VIEW = "view"
    GIT = "git"
    LIST = "list"
    OTHER = "other"


MEANINGS: Mapping[ActionKind, str] = {
    ActionKind.SUBMIT: "ends the episode",
    ActionKind.EDIT_CREATE: "writes a whole file: edit create, cat > file, tee",
    ActionKind.EDIT_REPLACE: "replaces text in a file: edit replace, sed -i, patch, git apply",
    ActionKind.EDIT_LINES: "replaces a range of lines: edit lines",
    ActionKind.EDIT_INSERT: "adds lines to a file: edit insert, cat >> file",
    ActionKind.EDIT_UNDO: "takes an edit back: edit undo",
    ActionKind.RUN_TESTS: "runs a test runner: pytest, unittest, tox, make test …",
    ActionKind.RUN_PYTHON: "runs Python code: a script, a module, python -c, a here-document",
    ActionKind.INSTALL: "installs packages: pip, conda, apt-get, poetry, npm …",
    ActionKind.FILES: "moves, copies, removes or packs files, makes folders, changes modes",
    ActionKind.SEARCH: "searches by content or name: grep, rg, find, git grep",
    ActionKind.VIEW: "shows a file or a part of it: edit view, cat, sed -n, head, diff …",
    ActionKind.GIT: "asks or changes git, other than git grep and git apply",
    ActionKind.LIST: "lists folders: ls, tree, pwd",
    ActionKind.OTHER: "anything else: type checkers, linters, builds, echo …",
}
"""What each kind holds, for readers."""

_EDITS = {
    "view": ActionKind.VIEW,
    "create": ActionKind.EDIT_CREATE,
    "replace": ActionKind.EDIT_REPLACE,
    "lines": ActionKind.EDIT_LINES,
    "insert": ActionKind.EDIT_INSERT,
    "undo": ActionKind.EDIT_UNDO,
}
_PROGRAMS = {
    **dict.fromkeys(("grep", "egrep", "fgrep", "zgrep", "rg", "ag", "ack", "find", "fd", "locate"), ActionKind.SEARCH),
    **dict.fromkeys(("cat", "nl", "head", "tail", "less", "more", "bat", "tac", "sed", "awk", "gawk"), ActionKind.VIEW),
    **dict.fromkeys(("wc", "file", "stat", "diff", "cmp", "xxd", "od", "hexdump", "strings", "jq"), ActionKind.VIEW),
    **dict.fromkeys(("ls", "ll", "tree", "pwd", "du", "dir"), ActionKind.LIST),
    **dict.fromkeys(("rm", "mv", "cp", "mkdir", "rmdir", "touch", "chmod", "chown", "ln"), ActionKind.FILES),
    **dict.fromkeys(("tar", "unzip", "zip", "gzip", "gunzip", "truncate", "rsync", "dd"), ActionKind.FILES),
    **dict.fromkeys(("pytest", "py.test", "tox", "nox", "nosetests", "trial", "ctest", "jest"), ActionKind.RUN_TESTS),
    **dict.fromkeys(("runtests.py", "runtests", "unittest", "phpunit", "rspec", "mocha"), ActionKind.RUN_TESTS),
    **dict.fromkeys(("apt", "apt-get", "yum", "dnf", "apk", "brew", "conda", "mamba"), ActionKind.INSTALL),
    **dict.fromkeys(("patch", "ed", "ex"), ActionKind.EDIT_REPLACE),
    "git": ActionKind.GIT,
    "submit": ActionKind.SUBMIT,
}
_PACKAGE_TOOLS = frozenset(
    {"poetry", "pipenv", "pdm", "hatch", "uv", "pip", "pip3", "npm", "yarn", "pnpm", "cargo", "gem"}
)
_PACKAGE_VERBS = frozenset({"install", "uninstall", "add", "remove", "update", "upgrade", "sync", "ci", "download"})
_TEST_TOOLS = frozenset({"make", "npm", "yarn", "pnpm", "cargo", "go", "mvn", "gradle", "gradlew", "hatch", "dotnet"})
_TEST_MODULES = frozenset({"pytest", "unittest", "nose", "tox", "nox", "doctest", "twisted.trial", "testtools.run"})
_TEST_SCRIPTS = frozenset({"runtests.py", "runtests", "run_tests.py", "bin/test"})
_WRITERS = frozenset({"cat", "echo", "printf", ":", ""})
"""Programs that write what they are told or given, so that a redirection makes a file of it."""
_SHELLS = frozenset({"bash", "sh", "dash", "zsh"})
_PYTHON = re.compile(r"(?:python|pypy)[\d.]*|ipython3?")
_PLAIN_WORDS = re.compile(r"[\w./ -]+")
_RANK = {kind: rank for rank, kind in enumerate(ActionKind)}


def action_kind(action: str) -> ActionKind:
    """Return what an action is for.

    >>> str(action_kind("cd /testbed && PYTHONPATH=. python -m pytest -q tests 2>&1 | tail -3"))
    'run tests'
    """
    if action.startswith("edit "):  # most actions of most sets: no need to take them apart
        verb = action[5:14].split(" ")[0]
        plain = verb in ("create", "replace") and "submit" not in action
        if plain or (verb == "view" and _PLAIN_WORDS.fullmatch(action)):
            return _EDITS[verb]
    return _foremost(_kind(command) for command in simple_commands(action))


def _foremost(kinds: Iterable[ActionKind]) -> ActionKind:
    return min(kinds, key=_RANK.__getitem__, default=ActionKind.OTHER)


def _kind(command: SimpleCommand) -> ActionKind:
    words = without_wrappers(command.words)
    program = posixpath.basename(words[0]) if words else ""
    arguments = words[1:]
    if program == "tee" and arguments:
        return ActionKind.EDIT_INSERT if "-a" in arguments else ActionKind.EDIT_CREATE
    if command.writes and program in _WRITERS:
        appends = all(operator == ">>" for operator, _ in command.writes)
        return ActionKind.EDIT_INSERT if appends else ActionKind.EDIT_CREATE
    if program == "edit":
        return _EDITS.get(arguments[0] if arguments else "", ActionKind.OTHER)
    if program in _SHELLS:
        code = after_option(arguments, "c")
        return ActionKind.OTHER if code is None else action_kind(code)
    if _PYTHON.fullmatch(program) or program.endswith(".py"):
        return _python_kind(words if program.endswith(".py") else arguments)
    kind = _program_kind(program, words, arguments)
    # A filter of what another program prints is no look at a file.
    return ActionKind.OTHER if command.piped and kind is ActionKind.VIEW else kind


def _program_kind(program: str, words: tuple[str, ...], arguments: tuple[str, ...]) -> ActionKind:
    if program in ("sed", "perl") and any(re.match(r"-(?!-)[a-zA-Z]*i|--in-place", word) for word in arguments):
        return ActionKind.EDIT_REPLACE
    if program == "find":
        return _find_kind(arguments)
    if program == "git":
        verb = next((word for word in arguments if not word.startswith("-")), "")
        return {"grep": ActionKind.SEARCH, "apply": ActionKind.EDIT_REPLACE}.get(verb, ActionKind.GIT)
    if program == "coverage" and arguments[:1] == ("run",):
        return _python_kind(arguments[1:])
    if program in _PACKAGE_TOOLS and any(word in _PACKAGE_VERBS for word in arguments[:2]):
        return ActionKind.INSTALL
    if program in _TEST_TOOLS and any(word in ("test", "tests", "check", "t") for word in arguments[:2]):
        return ActionKind.RUN_TESTS
    if program == "test" and "/" in words[0]:  # bin/test of sympy, not the shell's own `test`
        return ActionKind.RUN_TESTS
    return _PROGRAMS.get(program, ActionKind.OTHER)


def _python_kind(arguments: tuple[str, ...]) -> ActionKind:
    module = after_option(arguments, "m")
    if module in ("pip", "ensurepip"):
        return ActionKind.INSTALL if _PACKAGE_VERBS & set(arguments) else ActionKind.OTHER
    script = next((word for word in arguments if not word.startswith("-")), "")
    names = {posixpath.basename(script), "/".join(script.split("/")[-2:])}
    rest = arguments[arguments.index(script) + 1 :] if script else ()
    if module in _TEST_MODULES or names & _TEST_SCRIPTS:
        return ActionKind.RUN_TESTS
    if rest[:1] == ("test",) and (module or names & {"manage.py", "setup.py"}):
        return ActionKind.RUN_TESTS
    if "setup.py" in names and rest[:1] in (("install",), ("develop",)):
        return ActionKind.INSTALL
    return ActionKind.RUN_PYTHON


def _find_kind(arguments: tuple[str, ...]) -> ActionKind:
    """`find` searches, unless what it does with what it finds says more."""
    if "-delete" in arguments:
        return ActionKind.FILES
    starts = [index for index, word in enumerate(arguments) if word in ("-exec", "-execdir", "-ok")]
    ends = [*starts[1:], len(arguments)]
    commands = [arguments[start + 1 : end] for start, end in zip(starts, ends, strict=False)]
    return _foremost([ActionKind.SEARCH, *(_kind(SimpleCommand(words=words, writes=())) for words in commands)])
