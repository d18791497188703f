"""Shell text -> the simple commands in it: enough of bash's grammar to say which programs an action runs.

Pipelines, lists, subshells, substitutions outside double quotes and compound commands are taken apart; a here-document
belongs to the command that reads it, comments are passed over. Text that is no valid shell is read as far as it goes.
Nothing is expanded or run.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

_TOKEN = re.compile(
    r"""
    (?P<space>(?:[ \t\r]|\\\n)++)
    |(?P<comment>(?<![^\s;&|()])\#[^\n]*)
    |(?P<redirect>(?:\d(?=[<>])|&(?=>))?(?:<<<|<<-?|>>|[<>]&|>\||<>|[<>](?!\()))
    |(?P<end>&&|\|\||;;|[;|&\n()]|[<>](?=\())
    |(?P<word>(?:'[^']*'|"(?:\\.|[^"\\])*+"|\\.|\$\{[^}\n]*\}|[^\s'"\\;&|()<>`])++)
    """,
    re.VERBOSE | re.DOTALL,
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(?:\[[^]]*\])?\+?=")
_KEYWORDS = frozenset({"if", "then", "else", "elif", "do", "while", "until", "!", "{", "}", "time"})
_QUOTES = re.compile(r"""'([^']*)'|"((?:\\.|[^"\\])*+)"|\\(.)""", re.DOTALL)
_ESCAPED = re.compile(r"""\\(["\\$`])""")
_WRAPPERS = frozenset({"timeout", "env", "sudo", "nice", "nohup", "stdbuf", "xargs", "exec", "command", "time"})
_RUNNERS = frozenset({"poetry", "pipenv", "pdm", "hatch", "uv"})
"""Programs that run another one when their first argument is `run`."""
_OPTION_OF_WRAPPER = re.compile(r"-.*|\w+=.*|[\d.]+[smhd]?|\{\}", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimpleCommand:
    """A program with its arguments.

    Example: `A=1 sed -n 1p 'a b' > out` has words ("sed", "-n", "1p", "a b") and writes ((">", "out"),).
    """

    words: tuple[str, ...]
    """Without assignments and keywords in front, and without redirections; quotes taken off."""
    writes: tuple[tuple[str, str], ...]
    """Redirections of its output, as operator and target; those to another descriptor or the void are left out."""
    piped: bool = False
    """It reads what the command before it prints."""
    given: str = ""
    """The here-documents that it reads."""


def simple_commands(text: str) -> Iterator[SimpleCommand]:
    """Yield the simple commands of a shell text in the order in which they are written."""
    words: list[str] = []
    writes: list[tuple[str, str]] = []
    line: list[SimpleCommand] = []
    ends: list[tuple[int, str]] = []
    redirect = ""
    piped = False
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:  # an unfinished quote, or a backtick
            position += 1
            continue
        position = token.end()
        if token.lastgroup == "redirect":
            redirect = token.group()
        elif token.lastgroup == "word":
            word = unquoted(token.group())
            if redirect.startswith("<<") and redirect != "<<<":
                ends.append((len(line), ("\t*" if redirect.endswith("-") else "") + re.escape(word)))
            elif redirect.endswith((">", ">|")) and not redirect.startswith("2") and word != "/dev/null":
                writes.append((">>" if redirect.endswith(">>") else ">", word))
            elif not redirect:
                words.append(word)
            redirect = ""
        elif token.lastgroup == "end":
            line += _finished(words, writes, piped)
            words, writes, redirect = [], [], ""
            piped = token.group() == "|"
            if token.group() == "\n":
                position = _take_here_documents(text, position, ends, line)
                yield from line
                line, ends = [], []
    yield from line
    yield from _finished(words, writes, piped)


def without_wrappers(words: tuple[str, ...]) -> tuple[str, ...]:
    """Take off programs that run another one: `timeout -k 5 60 env A=1 python x.py` becomes `python x.py`."""
    start = 0
    while start < len(words):
        program = posixpath.basename(words[start])
        if program in _RUNNERS and words[start + 1 : start + 2] == ("run",):
            start += 2
        elif program in _WRAPPERS:
            start += 1
        else:
            break
        while start < len(words) and _OPTION_OF_WRAPPER.fullmatch(words[start]):
            start += 1
    return words[start:]


def after_option(arguments: tuple[str, ...], letter: str) -> str | None:
    """Return what follows `-c` or `-m` (also in `-lc`), None where there is no such option before the first operand."""
    for index, word in enumerate(arguments):
        if not word.startswith("-"):
            if index and arguments[index - 1] in ("-W", "-X"):
                continue
            return None
        if not word.startswith("--") and word.endswith(letter):
            return arguments[index + 1] if index + 1 < len(arguments) else ""
    return None


def unquoted(word: str) -> str:
    """Take quotes and backslashes off: `'a b'"c"\\d` becomes `a bcd`."""
    return _QUOTES.sub(_content, word) if any(mark in word for mark in "'\"\\") else word


def _content(found: re.Match[str]) -> str:
    single, double, escaped = found.groups()
    return single or (_ESCAPED.sub(r"\1", double) if double else escaped) or ""


def _finished(words: list[str], writes: list[tuple[str, str]], piped: bool) -> Iterator[SimpleCommand]:
    start = 0
    while start < len(words) and (words[start] in _KEYWORDS or _ASSIGNMENT.match(words[start])):
        start += 1
    if words[start:] or writes:
        yield SimpleCommand(words=tuple(words[start:]), writes=tuple(writes), piped=piped)


def _take_here_documents(text: str, position: int, ends: list[tuple[int, str]], line: list[SimpleCommand]) -> int:
    """Give the bodies that begin at `position`, each up to a line of its pattern, to the commands of the line that
    read them; return where the shell reads on."""
    for index, pattern in ends:
        end = re.compile(rf"^{pattern}$\n?", re.MULTILINE).search(text, position)
        body = text[position : end.start() if end else len(text)]
        if index < len(line):
            line[index] = replace(line[index], given=line[index].given + body)
        position = end.end() if end else len(text)
    return position
