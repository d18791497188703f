"""Observations without what differs from one run of a command to the next: times, addresses, temporary names…

Holds the rules, each with an example, and the comparison of a recorded observation with a replayed one. What a command
finds or computes stays: numbers of tests, line numbers, sizes of files, values. Leaves out running commands (`replay`).
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from difflib import unified_diff
from itertools import islice
from typing import Literal

Likeness = Literal["same", "reordered", "different"]
"""Two observations are the same, have the same lines in another order, or differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One kind of noise, and what stands for it."""

    pattern: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str]
    before: str
    """An example…"""
    after: str
    """…and what becomes of it."""

    def apply(self, text: str) -> str:
        """Return the text with its noise of this kind replaced."""
        return self.pattern.sub(self.replacement, text)


def _rule(
    pattern: str, replacement: str | Callable[[re.Match[str]], str], before: str, after: str, *, flags: int = 0
) -> Rule:
    return Rule(pattern=re.compile(pattern, re.MULTILINE | flags), replacement=replacement, before=before, after=after)


def _sorted_set(match: re.Match[str]) -> str:
    elements = _STRING.findall(match.group())
    return "{" + ", ".join(sorted(elements)) + "}"


def _listed_file(match: re.Match[str]) -> str:
    mode, owner, group, size = match.groups()
    return f"{mode} {owner} {group} {'<size>' if mode[0] == 'd' else size} <date> "


_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_UNIT = r"(?:ns|[uµμm]s|s|[num]?secs?|seconds)"
_STRING = re.compile(r"'[^'\\\n]*'|\"[^\"\\\n]*\"")
_ABBREVIATED = r"(?=[0-9]*[a-f])[0-9a-f]{7,12}"
"""Digits alone would rather be a number."""

RULES: tuple[Rule, ...] = (
    # What a terminal would not show.
    _rule(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])", "",
          "\x1b[31mFAILED\x1b[0m", "FAILED"),
    _rule(r"[ \t\r\f\v]+$", "", "one \r\ntwo\t", "one\ntwo"),
    # Durations, where the words around them say that they are some. pytest fills its last line up with "=".
    _rule(r"\bin \d+\.\d+ ?" + _UNIT + r"\b(?: \(\d+:\d\d:\d\d\))?", "in <time>",
          "2 passed in 75.31s (0:01:15)", "2 passed in <time>"),
    _rule(r"^={2,} (.*\bin <time>) ={2,}$", r"= \1 =", "======= 1 failed in <time> ========", "= 1 failed in <time> ="),
    _rule(r"^ *\d+\.\d+s (call|setup|teardown) +", r"<time> \1 ",
          "0.05s call     tests/test_a.py::test_b", "<time> call tests/test_a.py::test_b"),
    _rule(r"^(real|user|sys)\s+\d+m\d+[.,]\d+s$", r"\1 <time>", "real\t0m1.234s", "real <time>"),
    _rule(r"\b(took|elapsed|duration|time)\b([ :=a-z]{0,12}?)\d+(?:\.\d+)? ?" + _UNIT + r"\b", r"\1\2<time>",
          "it took 12.5 ms", "it took <time>", flags=re.IGNORECASE),
    _rule(r"\d+(?:\.\d+)? " + _UNIT + " per loop", "<time> per loop", "best of 5: 23.1 usec per loop",
          "best of 5: <time> per loop"),
    # Moments: a date with a time of day. A date alone may be data.
    _rule(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?[+-]\d\d:?\d\d\b|Z\b)?", "<date>",
          "2024-05-01 12:34:56.789 +0000", "<date>"),
    _rule(rf"\b{_DAY},? (?:{_MONTH} +\d+|\d+ {_MONTH} \d{{4}}),? \d\d:\d\d:\d\d(?: [A-Z]{{3,4}})?(?: \d{{4}})?"
          r"(?: [+-]\d{4}\b)?", "<date>", "Wed May  1 12:34:56 2024 +0000", "<date>"),
    # `ls -l`: the moment, the columns' widths, what a file system needs for folders.
    _rule(rf"^([-dlbcps][-rwxsStT]{{9}})[.+@]? +\d+ +(\S+) +(\S+) +(\d+) +(?:{_MONTH} +\d+ +[\d:]+|<date>) ",
          _listed_file, "-rw-r--r-- 1 root root   512 May  1 12:34 a.py", "-rw-r--r-- root root 512 <date> a.py"),
    _rule(r"^total \d+(?:\.\d+)?[KMGT]?(?=\n[-dlbcps][-rwxsStT]{9})", "total <blocks>",
          "total 4\n-rw-r--r-- root root 5 <date> a.py", "total <blocks>\n-rw-r--r-- root root 5 <date> a.py"),
    # Addresses in memory and identities of objects.
    _rule(r"\bat 0x[0-9a-fA-F]{6,16}\b", "at <address>", "<Foo object at 0x7f3a5c1d2e80>", "<Foo object at <address>>"),
    _rule(r"\bat 0x[0-9a-fA-F]+\.\.\.", "at <address>...", "<Foo object at 0x7f3...>", "<Foo object at <address>...>"),
    _rule(r"\b(?:0x[57][0-9a-f]|7[ef])[0-9a-f]{10}\b", "<address>", "cancel scope 7f36e1fa3110",
          "cancel scope <address>"),
    _rule(r"\bid='?\d{12,16}\b'?", "id=<address>", "<Mock id='139876543210123'>", "<Mock id=<address>>"),
    # Processes.
    _rule(r"\b(pid)\b([ :=]*)\d+\b", r"\1\2<pid>", "server runs with pid 4711", "server runs with pid <pid>",
          flags=re.IGNORECASE),
    _rule(r"^\[(\d+)\] \d+$", r"[\1] <pid>", "[1] 4711", "[1] <pid>"),
    _rule(r"^((?:/bin/)?(?:ba)?sh: (?:line \d+: )?) *\d+ (Killed|Terminated|Aborted|Segmentation fault|Bus error)\b *",
          r"\1<pid> \2 ", "bash: line 1:  4711 Killed   python a.py", "sh: <pid> Killed python a.py"),
    _rule(r"\bkill: \(\d+\)", "kill: (<pid>)", "kill: (4711) - No such process", "kill: (<pid>) - No such process"),
    # Names that programs make up.
    _rule(r"/tmp[a-z0-9_]{8}(?![a-z0-9_])", "/<temporary>", "/tmp/tmpa1b2c3d4/x.py", "/tmp/<temporary>/x.py"),
    _rule(r"/tmp\.[A-Za-z0-9]{6,12}\b", "/<temporary>", "/tmp/tmp.Ab3dEfGh1J", "/tmp/<temporary>"),
    _rule(r"/pytest-of-[\w-]+/pytest-\d+\b", "/pytest-of-<user>/pytest-<number>",
          "/tmp/pytest-of-root/pytest-3/test_a0", "/tmp/pytest-of-<user>/pytest-<number>/test_a0"),
    _rule(r"\b(127\.0\.0\.1|localhost|0\.0\.0\.0):[3-6]\d{4}\b", r"\1:<port>", "http://127.0.0.1:43521/",
          "http://127.0.0.1:<port>/"),
    # Git names commits by author and moment too; blobs, by content alone, keep their names.
    _rule(r"^commit [0-9a-f]{40}\b", "commit <commit>", "commit " + "a0c829b1" * 5 + " (HEAD)",
          "commit <commit> (HEAD)"),
    _rule(r"^Author: .*<.*>$", "Author: <author>", "Author: A <a@b.org>", "Author: <author>"),
    _rule(rf"^(\* )?{_ABBREVIATED}(?= )", r"\1<commit>", "a0c829b base", "<commit> base"),
    _rule(r"(\bHEAD (?:is now|detached) at |\bWIP on \S+: |^\[\S+ (?:\(root-commit\) )?)[0-9a-f]{7,40}\b",
          r"\1<commit>", "HEAD is now at a0c829b base", "HEAD is now at <commit> base"),
    _rule(r"^(Dropped \S+ \()[0-9a-f]{40}\)$", r"\1<commit>)", "Dropped refs/stash@{0} (" + "a0c829b1" * 5 + ")",
          "Dropped refs/stash@{0} (<commit>)"),
    # What the shell calls itself, and how it numbers lines: it depends on the scaffold.
    _rule(r"^(?:/usr)?(?:/bin/)?(?:ba)?sh: (?:(?:line )?\d+: )?(?=\S)", "sh: ",
          "/bin/bash: line 1: pyt: command not found", "sh: pyt: command not found"),
    # Python shuffles sets of strings anew in every process.
    _rule(r"\{(?:'[^'\\\n]*'|\"[^\"\\\n]*\")(?:, (?:'[^'\\\n]*'|\"[^\"\\\n]*\"))+\}", _sorted_set, "{'b', 'a'}",
          "{'a', 'b'}"),
    # What our environment adds at the end of an observation; exit codes are compared by themselves.
    _rule(r"\n?^\[(?:exit code (?:\d+|unknown)|ended at the time limit of .* s; its output up to then is above|"
          r"the shell ended; this is a fresh one .*|all processes were ended: .*)\]\n*\Z", "",
          "no such file\n[exit code 1]", "no such file"),
)  # fmt: skip
"""What is taken for noise. No replacement contains anything that a rule looks for, so applying them again and again
comes to an end."""

_MARK = re.compile(
    r"\n?(?:\[(?:\.\.\. )?\d+ characters elided(?: \.\.\.)?\]"  # mini-swe-agent
    r"|\[… \d+ (?:characters|bytes) left out …\]"  # srl_swe
    r"|\[\.\.\. Observation truncated due to length \.\.\.\]"  # OpenHands
    r"|<response clipped>(?:<NOTE>.*?</NOTE>)?)\n?",  # OpenHands, SWE-agent
    re.DOTALL,
)
"""What stands where the middle or the end of a long observation was left out."""
_GAP = "[…]"
_DIGITS = re.compile(r"^[0-9]{7,12}(?= )")


def normalised(text: str) -> str:
    """Return an observation without noise and without line breaks at either end.

    >>> normalised("<A object at 0x7f3a5c1d2e80>\\n==== 2 passed in 0.31s ====\\n")
    '<A object at <address>>\\n= 2 passed in <time> ='
    """
    while True:
        before = text
        for rule in RULES:
            text = rule.apply(text)
        text = text.strip("\n")
        if text == before:
            return text


def compare(recorded: str, observed: str) -> Likeness:
    """Tell whether two observations are the same but for noise.

    Where the middle of one is left out, what stands before and behind the mark is compared. "reordered" are those
    whose lines are the same in another order, as a file system lists its files in an order of its own.
    """
    left, right = _aligned(recorded, observed)
    if left == right:
        return "same"
    if _GAP in left:
        missing = Counter(left) - Counter([*normalised(observed).split("\n"), _GAP])
        return "different" if missing or _MARK.search(observed) else "reordered"
    return "reordered" if Counter(left) == Counter(right) else "different"


def difference(recorded: str, observed: str, *, max_lines: int = 40, max_chars: int = 4000) -> str:
    """Return a unified diff of two normalised observations without line numbers, its end left out beyond the limits.

    >>> difference("2 failed in 0.10s", "1 failed in 0.25s")
    '--- recorded\\n+++ replayed\\n@@\\n-2 failed in <time>\\n+1 failed in <time>'
    """
    return _diff(*_aligned(recorded, observed), max_lines, max_chars)


def same_patch(recorded: str, replayed: str) -> bool:
    """Tell whether two patches change the same lines of the same files: the order of files, the names of blobs and
    what git shows of the surroundings behind `@@` do not count."""
    return _normalised_patch(recorded) == _normalised_patch(replayed)


def patch_difference(recorded: str, replayed: str, *, max_lines: int = 40, max_chars: int = 4000) -> str:
    """Return a unified diff of two normalised patches, its end left out beyond the limits."""
    return _diff(_normalised_patch(recorded), _normalised_patch(replayed), max_lines, max_chars)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ends:
    """The beginning and the end of an observation in normalised lines; both are all of it where nothing is left out."""

    head: list[str]
    """Whole lines only."""
    tail: list[str]
    prefix: str
    """What is sure of the first line: it stands for a head without a whole line."""
    suffix: str
    is_cut: bool

    @classmethod
    def of(cls, text: str) -> "_Ends":
        marks = list(_MARK.finditer(text))
        if not marks:
            lines = normalised(text).split("\n")
            return cls(head=lines, tail=lines, prefix=lines[0], suffix=lines[-1], is_cut=False)
        first, last = text[: marks[0].start()], text[marks[-1].end() :]
        # A cut may fall into the middle of what a rule looks for: the lines and words at the cut say nothing.
        head = normalised(first.rpartition("\n")[0])
        tail = normalised(last.partition("\n")[2])
        return cls(
            head=head.split("\n") if head else [],
            tail=tail.split("\n") if tail else [],
            prefix=normalised(first.split("\n")[0].rpartition(" ")[0]),
            suffix=normalised(last.split("\n")[-1].partition(" ")[2]),
            is_cut=True,
        )

    def shown(self, num_head: int, num_tail: int, num_prefix: int, num_suffix: int) -> list[str]:
        """Return that many lines, or characters where there is no line, of both ends."""
        if not self.is_cut and num_head + num_tail > len(self.head):
            return self.head  # too short for that
        head = self.head[:num_head] if num_head else [self.prefix[:num_prefix]]
        tail = self.tail[-num_tail:] if num_tail else [self.suffix[len(self.suffix) - num_suffix :]]
        return [*head, _GAP, *tail]


def _aligned(recorded: str, observed: str) -> tuple[list[str], list[str]]:
    """Return the normalised lines that can be compared: where one observation is cut, as much of the other."""
    left, right = _Ends.of(recorded), _Ends.of(observed)
    if not (left.is_cut or right.is_cut):
        return _with_same_commits(left.head, right.head)
    lengths = (
        min(len(left.head), len(right.head)),
        min(len(left.tail), len(right.tail)),
        min(len(left.prefix), len(right.prefix)),
        min(len(left.suffix), len(right.suffix)),
    )
    return left.shown(*lengths), right.shown(*lengths)


def _with_same_commits(left: list[str], right: list[str]) -> tuple[list[str], list[str]]:
    """Return two observations with a number taken for a commit where the other has a commit with the same subject.

    One abbreviated name in 27 has digits alone. Example: ["5216562 base"], ["<commit> base"].
    """
    if len(left) != len(right):
        return left, right
    left, right = list(left), list(right)
    for index, (one, two) in enumerate(zip(left, right, strict=True)):
        if (
            one != two
            and _DIGITS.sub("<commit>", one) == _DIGITS.sub("<commit>", two)
            and "<commit>" in (one[:8], two[:8])
        ):
            left[index] = right[index] = _DIGITS.sub("<commit>", one)
    return left, right


def _normalised_patch(patch: str) -> list[str]:
    """Return a patch's lines, its files in order of their names.

    Example: ["diff --git a/x b/x", "index 1..2", "@@ -1 +1 @@ def f():", "-a", "+b"] loses its second line and the
    end of its third.
    """
    parts = re.split(r"^(?=diff --git )", patch.strip("\n"), flags=re.MULTILINE)
    if len(parts) > 1:
        parts = parts[1:]  # what stands before the first file is a word of git's, or nothing
    lines: list[str] = []
    for part in sorted(part.rstrip("\n") for part in parts):
        part = re.sub(r"^(@@ -\S+ \+\S+ @@).*$", r"\1", part, flags=re.MULTILINE)
        lines += re.sub(r"^index .*\n", "", part, flags=re.MULTILINE).split("\n")
    return lines


def _diff(left: list[str], right: list[str], max_lines: int, max_chars: int) -> str:
    # Comparing takes quadratic time, so only as much is compared as may be shown.
    num_common = min(len(left), len(right))
    start = next((index for index in range(num_common) if left[index] != right[index]), num_common)
    window = slice(max(0, start - 1), start + 10 * max_lines)
    lines = unified_diff(left[window], right[window], "recorded", "replayed", lineterm="", n=1)
    shown = ["@@" if line.startswith("@@ ") else line for line in islice(lines, max_lines + 1)]
    if len(shown) > max_lines:
        shown[max_lines:] = [_GAP]
    text = "\n".join(shown)
    return text if len(text) <= max_chars else text[:max_chars] + _GAP
