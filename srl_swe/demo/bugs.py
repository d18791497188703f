"""Small bugs made at the syntax tree: source text and a seeded generator in, candidate bugs out.

An edit replaces the characters of one node and leaves every other byte of the file as it was. Nothing is run
here: whether a candidate is a bug at all, the package's own tests decide (`srl_swe.demo.instances`).
"""

import ast
import random
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from git import Git

from srl_swe.demo.edits import Edit, edits


@dataclass(frozen=True, kw_only=True, slots=True)
class Bug:
    """One change of one file that may break it."""

    kind: str
    """What was done, for example "comparison_operator"."""
    path: str
    class_name: str
    """Class of the method that holds the change; empty for a function."""
    function: str
    """Name of the outermost function or method that holds the change."""
    line: int
    """First line of the change in the broken file, from 1 (where a line was dropped: the line that took its place)."""
    source: str
    broken_source: str

    @property
    def bug_patch(self) -> str:
        """Return the diff that breaks the file."""
        return file_patch(self.path, self.source, self.broken_source)

    @property
    def gold_patch(self) -> str:
        """Return the diff that repairs the file."""
        return file_patch(self.path, self.broken_source, self.source)


def candidate_bugs(source: str, path: str, rng: random.Random) -> Iterator[Bug]:
    """Yield every candidate of one file, the kinds in turn, in an order drawn from `rng`.

    Each parses and changes the syntax tree. Candidates are made as they are asked for.
    Raises: SyntaxError when `source` itself does not parse.
    """
    tree = ast.parse(source)
    original = ast.dump(tree)
    data = source.encode()
    for edit in _kinds_in_turn(set(edits(tree, data)), rng):
        broken = (data[: edit.start] + edit.replacement + data[edit.end :]).decode()
        try:
            changed = ast.dump(ast.parse(broken)) != original
        except SyntaxError:
            continue
        if changed:
            yield Bug(
                kind=edit.kind,
                path=path,
                class_name=edit.class_name,
                function=edit.function,
                line=data[: edit.start].count(b"\n") + 1,
                source=source,
                broken_source=broken,
            )


def _kinds_in_turn(found: set[Edit], rng: random.Random) -> Iterator[Edit]:
    """Frequent kinds (dropped statements) would otherwise crowd out the others."""
    by_kind: dict[str, list[Edit]] = {}
    for edit in sorted(found, key=lambda edit: (edit.kind, edit.start, edit.end, edit.replacement)):
        by_kind.setdefault(edit.kind, []).append(edit)
    for same_kind in by_kind.values():
        rng.shuffle(same_kind)
    while by_kind:
        kinds = list(by_kind)
        rng.shuffle(kinds)
        for kind in kinds:
            yield by_kind[kind].pop()
            if not by_kind[kind]:
                del by_kind[kind]


def file_patch(path: str, before: str, after: str) -> str:
    """Return git's diff of one text file, as `git apply` takes it; "" when nothing changed."""
    with tempfile.TemporaryDirectory() as folder:
        for side, text in (("a", before), ("b", after)):
            file = Path(folder, side, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
        # Exit code 1 only says that there is a difference.
        patch: str = Git(folder).diff(
            "--no-index", "--full-index", "--no-prefix", "--no-color", "--no-ext-diff", f"a/{path}", f"b/{path}",
            with_exceptions=False, strip_newline_in_stdout=False,
        )  # fmt: skip
        return patch


def replacement(before: str, after: str) -> tuple[str, str]:
    """Return (old, new): whole lines of `before`, found there only once, and what stands for them in `after`.

    Lines around the change are taken in until the old text is unique and not blank; neither text ends with "\\n".
    """
    old, new = _lines(before), _lines(after)
    head, tail = _common_ends(old, new)
    while True:
        text = "".join(old[head : len(old) - tail]).removesuffix("\n")
        if text.strip() and before.find(text) == before.rfind(text):
            return text, "".join(new[head : len(new) - tail]).removesuffix("\n")
        if head > 0:
            head -= 1
        elif tail > 0:
            tail -= 1
        else:
            raise ValueError("a blank file has no lines to replace")


def _common_ends(old: list[str], new: list[str]) -> tuple[int, int]:
    """Return how many lines the two have in common at the start, and at the end of what is left."""
    most = min(len(old), len(new))
    head = 0
    while head < most and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < most - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return head, tail


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+\Z", text)
