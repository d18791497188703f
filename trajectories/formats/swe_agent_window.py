"""What SWE-agent printed -> what was shown, without the scaffold's words.

Source: SWE-agent's `config/commands/*.sh` (0.x) and `tools/windowed/lib/windowed_file.py` (1.x), which print a file as

    [File: /repo/a.py (300 lines total)]
    (11 more lines above)
    12:def add(a, b):
    …
    (189 more lines below)

Holds the reading of such windows, of the prompt that 0.x puts under every observation, how the in-container `edit` tool
prints the same lines, and the state of the viewer from command to command. Leaves out what the commands mean
(`swe_agent_tools`).
"""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from srl_swe.trajectories.formats.texts import split_tail

_HEAD = re.compile(r"\[File: (.+) \((\d{1,9}) lines total\)\]")
_ABOVE = re.compile(r"\((\d{1,9}) more lines above\)")
_LINE = re.compile(r"(\d{1,9}):(.*)", re.DOTALL)
_CURSOR = re.compile(r"<<<<< (START|END) CURSOR >>>>>")
_PROMPT = re.compile(r"\n?\(Open file: ([^\n]*)\)\s*\(Current directory: ([^\n]*)\)\s*bash-\$\s*$")
_OBSERVATION_HEAD = re.compile(r"\s*OBSERVATION:\n")
_WARNING = re.compile(
    r"\n?WARNING: Scrolling many times in a row is very inefficient\.\nIf you know what you are looking for, use "
    r"`search_file <pattern>` instead\.\n?"
)
_NO_OUTPUT = re.compile(r"\s*Your (?:last )?command ran successfully and did not produce any output\.\s*")
_REVIEW = "\nReview the changes and make sure they are as expected{}. Edit the file again if necessary."
_TO_CHECK = " (correct indentation, no duplicate lines, etc)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The part of a file that SWE-agent's viewer shows."""

    path: str
    num_lines: int
    """Of the whole file."""
    first: int
    last: int
    """Numbers of the lines at its edges, from 1; `first - 1` = it shows none."""
    lines: tuple[str, ...]
    """Empty where only the edges are known."""
    cursors: tuple[int, int] | None = None
    """Lines between the cursors, in the variant of 0.x that has them."""

    @property
    def reaches_end(self) -> bool:
        return self.last >= self.num_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the shell and the viewer stand; None = the file does not say."""

    open_file: str | None = None
    """Empty = no file is open."""
    working_dir: str | None = None


def split_prompt(text: str) -> tuple[str, Place]:
    """Take the prompt of 0.x, and the words around an observation, off its text.

    >>> split_prompt("8.2\\n(Open file: /r/a.py)\\n(Current directory: /r)\\nbash-$")
    ('8.2', Place(open_file='/r/a.py', working_dir='/r'))
    """
    text = text.replace("\r\n", "\n")
    place = Place()
    body, tail = split_tail(text)
    prompt = _PROMPT.search(tail)
    if prompt:
        text = body + tail[: prompt.start()]
        place = Place(open_file=open_file_of(prompt.group(1)), working_dir=prompt.group(2).strip())
    if head := _OBSERVATION_HEAD.match(text):
        text = text[head.end() :]
    text = _WARNING.sub("\n", text)
    return ("" if _NO_OUTPUT.fullmatch(text) else text.rstrip("\n")), place


def open_file_of(text: str) -> str:
    """Return the path that a state or a prompt names; empty for its "n/a"."""
    return "" if text.strip() in ("", "n/a") else text.strip()


def find_windows(text: str) -> list[Window]:
    """Return the windows that an observation shows, in order."""
    windows = []
    lines = text.split("\n")
    for index, line in enumerate(lines):
        head = _HEAD.fullmatch(line)
        if head:
            windows.append(_read_window(head.group(1), int(head.group(2)), lines[index + 1 :]))
    return windows


def _read_window(path: str, num_lines: int, rest: list[str]) -> Window:
    first, shown = 1, list[str]()
    start = end = None
    for line in rest:
        above, cursor, numbered = _ABOVE.fullmatch(line), _CURSOR.fullmatch(line), _LINE.fullmatch(line)
        if above and not shown:
            first = int(above.group(1)) + 1
        elif cursor and cursor.group(1) == "START":
            start = first + len(shown)
        elif cursor:
            end = first + len(shown) - 1
        elif numbered and (not shown or int(numbered.group(1)) == first + len(shown)):
            first = first if shown else int(numbered.group(1))
            shown.append(numbered.group(2))
        else:
            break
    cursors = (start, end) if start is not None and end is not None else None
    last = first + len(shown) - 1
    return Window(path=path, num_lines=num_lines, first=first, last=last, lines=tuple(shown), cursors=cursors)


def view_output(path: str, window: Window) -> str:
    """Return what `edit view` prints of the lines that a window shows.

    The tool numbers what follows a file's last line break too. That the file ends with one is taken for granted.
    """
    shown = window.lines + (("",) if window.reaches_end else ())
    return f"Here's the result of running `cat -n` on {path}:\n{_numbered(shown, window.first)}"


def edited_output(path: str, window: Window, first: int, last: int, *, by_text: bool = False) -> str:
    """Return what the `edit` tool prints after an edit, as far as a window shows it.

    Args:
        path: The file.
        window: What SWE-agent showed after the edit.
        first: First line of the snippet, from 1.
        last: Its last line.
        by_text: It was `edit replace`, which words it in another way than `edit insert` and `edit lines`.
    """
    lines = window.lines + (("",) if window.reaches_end else ())
    first = max(first, window.first)
    shown = lines[first - window.first : last - window.first + 1]
    of_what, to_check = (path, "") if by_text else ("the edited file", _TO_CHECK)
    head = f"The file {path} has been edited. Here's the result of running `cat -n` on a snippet of {of_what}:\n"
    return head + _numbered(shown, first) + _REVIEW.format(to_check)


def _numbered(lines: tuple[str, ...], first: int) -> str:
    return "\n".join(f"{first + index:6}\t{line}" for index, line in enumerate(lines))


@dataclass(kw_only=True, slots=True)
class Answer:
    """A recorded observation, whose windows belong to the commands of an action in order."""

    text: str | None
    """None = never answered."""
    windows: list[Window]

    def take_window(self) -> Window | None:
        return self.windows.pop(0) if self.windows else None

    def says(self, pattern: re.Pattern[str] | str) -> bool:
        return self.text is not None and re.search(pattern, self.text) is not None


@dataclass(kw_only=True, slots=True)
class Viewer:
    """SWE-agent's shell and file viewer, followed from command to command."""

    working_dir: str = ""
    """Empty = not known."""
    open_file: str = ""
    window: Window | None = None
    """What it showed last of the open file."""
    cursors: tuple[int, int] = (1, 1)

    def move_to(self, place: Place) -> None:
        """Take over what the file says."""
        self.working_dir = self.working_dir if place.working_dir is None else place.working_dir
        if place.open_file is not None and place.open_file != self.open_file:
            self.open_file, self.window, self.cursors = place.open_file, None, (1, 1)

    def change_dir(self, words: Sequence[str]) -> None:
        """Follow a `cd`."""
        folder = words[1] if len(words) == 2 else ""
        known = folder.startswith("/") or (self.working_dir and folder and folder[0] not in "-~$")
        self.working_dir = self.absolute(folder) if known else ""

    def absolute(self, path: str) -> str:
        if path.startswith(("/", "~")) or not self.working_dir.startswith("/"):
            return path
        return posixpath.normpath(posixpath.join(self.working_dir, path))

    def show(self, window: Window) -> str:
        """Follow what was shown; return the path of the file."""
        path = self.absolute(window.path)
        if not path.startswith("/") and self.open_file.endswith("/" + path.removeprefix("./")):
            path = self.open_file
        if path != self.open_file:
            self.cursors = (1, 1)
        self.open_file, self.window = path, replace(window, path=path)
        self.cursors = window.cursors or self.cursors
        return path
