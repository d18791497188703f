"""Search/replace edits: read from a model's answer, applied to files' texts, written as a unified diff. Pure.

The form is the one of Agentless and SWE-RL (arXiv 2407.01489, 2502.18449): the file's path as a heading, then the lines
to search and the lines to put there. Left out: what models are told of it (`edit_prompts`), who applies the diff.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from srl_swe.environments.diffs import split_lines, unified_diff
from srl_swe.errors import MalformedCompletionError

_EDIT = re.compile(
    r"^[ \t]*#{3}[ \t]*(?P<path>\S[^\n]*?)[ \t]*\n"
    r"<{7} SEARCH[ \t]*\n(?P<search>.*?)^={7}[ \t]*\n(?P<replace>.*?)^>{7} REPLACE[ \t]*$",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(r"^<{7} SEARCH", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """Lines of a file, and what is to stand in their place."""

    path: str
    """Relative to the work tree."""
    search: str
    """Whole lines; empty = the file is new, or empty."""
    replace: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AppliedEdits:
    """What became of edits."""

    patch: str
    """Unified diff that git applies. Where an edit is not found, the diff says what it asks for, and does not apply."""
    not_found: tuple[Edit, ...]
    """Edits whose lines are not in the file."""


def after_thought(text: str) -> str:
    """Return what follows the thought of an answer.

    Raises:
        MalformedCompletionError: a thought is begun and not ended.
    """
    before, mark, rest = text.rpartition("</think>")
    if not mark and text.lstrip().startswith("<think>"):
        raise MalformedCompletionError("The <think> block is never closed by </think>.")
    return rest if mark else before or text


def parse_edits(text: str) -> tuple[Edit, ...]:
    """Read the edits of an answer, what its thought says left out.

    Raises:
        MalformedCompletionError: there is none, one is not complete, or a path leads out of the work tree.
    """
    answer = after_thought(text).replace("\r\n", "\n")
    edits = tuple(
        Edit(path=_path(match["path"]), search=match["search"], replace=match["replace"])
        for match in _EDIT.finditer(answer)
    )
    num_marks = len(_MARK.findall(answer))
    if num_marks == 0:
        raise MalformedCompletionError("The answer holds no <<<<<<< SEARCH block.")
    if num_marks != len(edits):
        raise MalformedCompletionError(
            f"{num_marks} SEARCH blocks are begun, {len(edits)} are complete: expected ### PATH, <<<<<<< SEARCH, "
            "lines, =======, lines, >>>>>>> REPLACE."
        )
    return edits


def apply_edits(edits: Sequence[Edit], texts: Mapping[str, str | None]) -> AppliedEdits:
    """Apply edits in their order to the texts of files, by path; None = there is no such file.

    The searched lines must be whole lines of the file; their first place counts, as in Agentless. One edit that is not
    found makes all of them not apply: half a change is not what the model asked for.
    """
    after = dict(texts)
    not_found = []
    for edit in edits:
        changed = _replaced(after.get(edit.path), edit)
        if changed is None:
            not_found.append(edit)
        else:
            after[edit.path] = changed
    if not_found:
        return AppliedEdits(patch="".join(_as_asked(edit) for edit in not_found), not_found=tuple(not_found))
    changes = [(path, texts.get(path), text) for path, text in after.items() if text != texts.get(path)]
    patch = "".join(unified_diff(path, before, text) for path, before, text in changes if text is not None)
    return AppliedEdits(patch=patch, not_found=())


def _replaced(text: str | None, edit: Edit) -> str | None:
    """Return the text with the edit, None where its lines are not there."""
    if not edit.search.strip():
        return edit.replace if not text else None
    if text is None:
        return None
    lines, search = split_lines(text), split_lines(edit.search)
    bare = [line.rstrip("\r\n") for line in lines]
    wanted = [line.rstrip("\r\n") for line in search]
    for start in range(len(bare) - len(wanted) + 1):
        if bare[start : start + len(wanted)] == wanted:
            break
    else:
        return None
    end = start + len(wanted)
    newline = "\r\n" if lines[start].endswith("\r\n") else "\n"
    new = edit.replace.replace("\n", newline)
    if end == len(lines) and not lines[-1].endswith("\n"):
        new = new.removesuffix(newline)
    return "".join(lines[:start]) + new + "".join(lines[end:])


def _as_asked(edit: Edit) -> str:
    """Return a diff that asks for the edit and nothing else: every searched line must be there for it to apply."""
    old, new = split_lines(edit.search), split_lines(edit.replace)
    # The lines of an edit that is to begin a file which exists already: git refuses to create it.
    created = not edit.search.strip()
    old = [] if created else old
    head = f"diff --git a/{edit.path} b/{edit.path}\n" + ("new file mode 100644\n" if created else "")
    source = "/dev/null" if created else f"a/{edit.path}"
    start = 0 if created else 1
    body = "".join([f"-{line}" for line in old] + [f"+{line}" for line in new])
    return f"{head}--- {source}\n+++ b/{edit.path}\n@@ -{start},{len(old)} +{int(bool(new))},{len(new)} @@\n{body}"


def _path(text: str) -> str:
    path = PurePosixPath(text.strip("`'\"* "))
    if path.is_absolute() or ".." in path.parts or path.parts[:1] == (".git",) or not path.parts:
        raise MalformedCompletionError(f"The path {text!r} is not that of a file in the work tree.")
    return str(path)
