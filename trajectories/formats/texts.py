"""Pieces of text that several formats write alike: fenced blocks, command lines of the editor, last lines.

Each takes time that grows with the text and no faster: an observation can have megabytes, and what is in it is hostile.
"""

import re
import shlex
from dataclasses import dataclass

EDITOR = "str_replace_editor"
_EDITOR_OPTIONS = ("--file_text", "--old_str", "--new_str", "--insert_line")
_CLOSING = re.compile(r"^```[ \t]*$", re.MULTILINE)
_TAIL_CHARS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block: where its opening fence stands in the text, and what is between the fences."""

    start: int
    content: str


def fenced_blocks(text: str, languages: str = r"[\w-]*") -> list[Block]:
    """Return the blocks between fences of three backticks, in order; `languages` is a pattern of what may follow them.

    >>> fenced_blocks("I look.\\n```bash\\nls\\n```\\n")
    [Block(start=8, content='ls')]
    """
    opening = re.compile(rf"^```(?:{languages})[ \t]*\n", re.MULTILINE)
    blocks: list[Block] = []
    position = 0
    while (opened := opening.search(text, position)) and (closed := _CLOSING.search(text, opened.end())):
        content = text[opened.end() : closed.start()]
        blocks.append(Block(start=opened.start(), content=content.removesuffix("\n")))
        position = closed.end()
    return blocks


def split_tail(text: str) -> tuple[str, str]:
    """Split off the last lines, about 2,000 characters, in which a scaffold's words stand."""
    start = len(text) - _TAIL_CHARS
    if start <= 0:
        return "", text
    start = text.find("\n", start)
    return (text[:start], text[start:]) if start >= 0 else (text, "")


def editor_arguments(line: str) -> dict[str, object] | None:
    """Read `str_replace_editor COMMAND PATH --option value…`; None = its words cannot be told apart.

    >>> editor_arguments("str_replace_editor view a.py --view_range 1 9")
    {'command': 'view', 'path': 'a.py', 'view_range': ['1', '9']}
    """
    try:
        words = shlex.split(line)
    except ValueError:
        return None
    if len(words) < 3:
        return None
    arguments: dict[str, object] = {"command": words[1], "path": words[2]}
    options = iter(words[3:])
    for word in options:
        if word == "--view_range":
            arguments["view_range"] = [next(options, ""), next(options, "")]
        elif word in _EDITOR_OPTIONS:
            # What follows is its value even where it looks like an option.
            arguments[word[2:]] = next(options, "")
    return arguments
