"""Why rows and steps do not become examples: a closed list of reasons, and their counts.

Leaves out the decisions themselves (`assemble`, the readers, `steps.StepFilter`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from enum import StrEnum


class Reason(StrEnum):
    """A reason to drop something, or (`NOTES`) to mention something that was kept."""

    # Rows: the whole trajectory is left out.
    UNKNOWN_FORMAT = "unknown_format"
    BAD_JSON = "bad_json"
    BAD_FIELD = "bad_field"
    NO_INSTANCE_ID = "no_instance_id"
    NO_PROBLEM_STATEMENT = "no_problem_statement"
    NO_STEPS = "no_steps"
    NO_TARGETS = "no_targets"
    BAD_FILE = "bad_file"
    ROW_TOO_LARGE = "row_too_large"
    DUPLICATE = "duplicate"
    NOT_RESOLVED = "not_resolved"
    UNKNOWN_OUTCOME = "unknown_outcome"
    EXIT_STATUS = "exit_status"
    TOO_FEW_STEPS = "too_few_steps"
    TOO_MANY_STEPS = "too_many_steps"
    FORMAT_NOISE = "format_noise"
    LOOP = "loop"
    EXCLUDED_INSTANCE = "excluded_instance"
    EXCLUDED_REPO = "excluded_repo"
    # Steps: one step is left out of its trajectory.
    MALFORMED_CALL = "malformed_call"
    UNKNOWN_CALL = "unknown_call"
    CONTROL_KEY = "control_key"
    NOT_EXECUTED = "not_executed"
    MISSING_OBSERVATION = "missing_observation"
    EARLY_SUBMIT = "early_submit"
    FABRICATED_SUBMIT = "fabricated_submit"
    REFUSED_CALL = "refused_call"
    SCAFFOLD_EXIT = "scaffold_exit"
    MASKED = "masked"
    # Steps: one step stays in the histories but is no target.
    REPEATED_ACTION = "repeated_action"
    ACTION_TOO_LONG = "action_too_long"
    EMPTY_ACTION = "empty_action"
    LAST_STEP = "last_step"
    # Cuts: the trajectory ends before the step.
    PROCESS_INPUT = "process_input"
    SCAFFOLD_ERROR = "scaffold_error"
    # Notes.
    KEPT_UNKNOWN_OUTCOME = "kept_unknown_outcome"
    PASSED_OVER_FILE = "passed_over_file"
    ADDED_SUBMIT = "added_submit"
    CUT_OBSERVATION = "cut_observation"
    REUSED_ID = "reused_id"


ROW_REASONS = frozenset(
    {
        Reason.UNKNOWN_FORMAT,
        Reason.BAD_JSON,
        Reason.BAD_FIELD,
        Reason.NO_INSTANCE_ID,
        Reason.NO_PROBLEM_STATEMENT,
        Reason.NO_STEPS,
        Reason.NO_TARGETS,
        Reason.BAD_FILE,
        Reason.ROW_TOO_LARGE,
        Reason.DUPLICATE,
        Reason.NOT_RESOLVED,
        Reason.UNKNOWN_OUTCOME,
        Reason.EXIT_STATUS,
        Reason.TOO_FEW_STEPS,
        Reason.TOO_MANY_STEPS,
        Reason.FORMAT_NOISE,
        Reason.LOOP,
        Reason.EXCLUDED_INSTANCE,
        Reason.EXCLUDED_REPO,
    }
)
"""Reasons that drop a whole row; every other reason that is no note concerns a step."""

NOTES = frozenset(
    {
        Reason.KEPT_UNKNOWN_OUTCOME,
        Reason.PASSED_OVER_FILE,
        Reason.ADDED_SUBMIT,
        Reason.CUT_OBSERVATION,
        Reason.REUSED_ID,
    }
)
"""Counted, but nothing of a trajectory was dropped."""

_MAX_PLACES = 3


class DropCounter:
    """Counts by (source, reason), with the first places of each."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Reason]] = Counter()
        self._places: defaultdict[tuple[str, Reason], list[str]] = defaultdict(list)

    def drop(self, source: str, reason: Reason, where: str) -> None:
        """Count one drop; `where` names the file and row, or the trajectory and step."""
        key = (source, Reason(reason))
        self.counts[key] += 1
        if len(self._places[key]) < _MAX_PLACES:
            self._places[key].append(where)

    def merge(self, other: "DropCounter") -> None:
        """Add the counts of another counter, and its places as far as there is room."""
        self.counts.update(other.counts)
        for key, places in other._places.items():
            self._places[key].extend(places[: _MAX_PLACES - len(self._places[key])])

    def note(self, source: str, reason: Reason, where: str) -> None:
        """Count something that was kept. `reason` is one of `NOTES`."""
        self.drop(source, reason, where)

    @property
    def total(self) -> int:
        """Rows and steps dropped, notes left out."""
        return sum(count for (_, reason), count in self.counts.items() if reason not in NOTES)

    @property
    def num_rows(self) -> int:
        """Whole rows dropped."""
        return sum(count for (_, reason), count in self.counts.items() if reason in ROW_REASONS)

    def places(self, source: str, reason: Reason) -> tuple[str, ...]:
        """Return the first places where this happened."""
        return tuple(self._places.get((source, reason), ()))

    def as_json(self) -> list[tuple[str, str, int, list[str]]]:
        """Return (source, reason, count, places) of each, ready for JSON."""
        return [
            (source, reason.value, count, self._places[source, reason])
            for (source, reason), count in self.counts.items()
        ]

    @classmethod
    def from_json(cls, entries: Iterable[tuple[str, str, int, list[str]]]) -> "DropCounter":
        """Return the counter that `as_json` wrote down."""
        counter = cls()
        for source, reason, count, places in entries:
            counter.counts[source, Reason(reason)] = count
            counter._places[source, Reason(reason)] = places
        return counter

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Return {source: {reason: count}}, notes included, in sorted order."""
        result: dict[str, dict[str, int]] = {}
        for (source, reason), count in sorted(self.counts.items()):
            result.setdefault(source, {})[reason.value] = count
        return result
