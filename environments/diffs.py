"""Unified diffs as text: made of two texts, turned backwards."""

import difflib
import re

from srl_swe.errors import DataError

_HUNK = re.compile(
    r"@@ -(?P<old>\d+(?:,(?P<num_old>\d+))?) \+(?P<new>\d+(?:,(?P<num_new>\d+))?) @@(?P<rest>.*)", re.DOTALL
)
_GIT = re.compile(r"diff --git (a/\S+) (b/\S+)(\s*)", re.DOTALL)
_INDEX = re.compile(r"index (\w+)\.\.(\w+)(.*)", re.DOTALL)
_OPPOSITES = (
    ("new file mode", "deleted file mode"),
    ("rename from", "rename to"),
    ("copy from", "copy to"),
    ("old mode", "new mode"),
)
_FLIP = {"-": "+", "+": "-"}


def split_lines(text: str) -> list[str]:
    """Split at line feeds only, as git does: form feeds and carriage returns are content."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def unified_diff(path: str, before: str | None, after: str | None) -> str:
    """Return a diff of one file in git's form; None for `before` or `after` = the file is not there."""
    old, new = split_lines(before or ""), split_lines(after or "")
    head = f"diff --git a/{path} b/{path}\n"
    head += "new file mode 100644\n" if before is None else "deleted file mode 100644\n" if after is None else ""
    source = "/dev/null" if before is None else f"a/{path}"
    target = "/dev/null" if after is None else f"b/{path}"
    lines = []
    for line in difflib.unified_diff(old, new, source, target):
        lines.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return head + "".join(lines)


def reverse_patch(patch: str) -> str:
    r"""Turn a unified text diff into the one that undoes it.

    >>> reverse_patch("--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n-old\n+new\n+line\n")
    '--- b/x\n+++ a/x\n@@ -1,2 +1 @@\n+old\n-new\n-line\n'

    Raises:
        DataError: it holds a binary change.
    """
    result: list[str] = []
    num_old = num_new = 0
    for line in split_lines(patch):
        if num_old > 0 or num_new > 0 or line.startswith("\\"):
            num_old -= line[0] in "- \n"
            num_new -= line[0] in "+ \n"
            result.append(_FLIP.get(line[0], line[0]) + line[1:])
        elif hunk := _HUNK.fullmatch(line):
            num_old, num_new = int(hunk["num_old"] or 1), int(hunk["num_new"] or 1)
            result.append(f"@@ -{hunk['new']} +{hunk['old']} @@{hunk['rest']}")
        elif line.startswith("+++ ") and result and result[-1].startswith("--- "):
            result[-1:] = ["--- " + line[4:], "+++ " + result[-1][4:]]
        else:
            result.append(_reversed_header(line))
    return "".join(result)


def _reversed_header(line: str) -> str:
    if line.startswith(("GIT binary patch", "Binary files ")):
        raise DataError("the patch changes a binary file, which cannot be reversed from its text")
    for word, opposite in _OPPOSITES:
        if line.startswith(word):
            return opposite + line[len(word) :]
        if line.startswith(opposite):
            return word + line[len(opposite) :]
    if git := _GIT.fullmatch(line):
        return f"diff --git a/{git[2][2:]} b/{git[1][2:]}{git[3]}"
    if index := _INDEX.fullmatch(line):
        return f"index {index[2]}..{index[1]}{index[3]}"
    return line
