"""Does a verdict repeat? What several gradings of the same patch have in common, and what not.

Grading again is left to `scheduler`. The first grading counts, as the only one does where a patch is graded once: what
the others find is disclosed and changes no resolve rate.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from srl_swe.types import Verdict, VerdictStatus

MAX_TESTS = 100
"""Of the tests whose outcomes differ, so many are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability:
    """What the gradings of one patch found."""

    statuses: tuple[VerdictStatus, ...]
    """In the order of the gradings; empty where there was only one."""
    tests: tuple[str, ...]
    """Tests whose outcomes differ, sorted."""


def stability(gradings: Sequence[Verdict]) -> Stability:
    """Compare the gradings of one patch, the one that counts first; failures of infrastructure say nothing of tests."""
    if len(gradings) < 2:
        return Stability(statuses=(), tests=())
    ran = [grading.test_status for grading in gradings if grading.status != "invalid"]
    names = sorted({name for outcomes in ran for name in outcomes})
    unstable = [name for name in names if len({outcomes.get(name) for outcomes in ran}) > 1]
    return Stability(statuses=tuple(grading.status for grading in gradings), tests=tuple(unstable[:MAX_TESTS]))


def how_often(statuses: Sequence[VerdictStatus]) -> str:
    """Say how often a patch was resolved.

    >>> how_often(("resolved", "unresolved", "resolved"))
    'resolved in 2 of 3 gradings'
    """
    counts = Counter(statuses)
    lost = f", {counts['invalid']} more were invalid" if counts["invalid"] else ""
    return f"resolved in {counts['resolved']} of {counts['resolved'] + counts['unresolved']} gradings{lost}"


def worth_confirming(verdict: Verdict | None) -> bool:
    """Whether a second grading can say more: not of patches that were not run, and not where the first one failed."""
    return verdict is not None and verdict.status != "invalid" and verdict.reason != "empty patch"
