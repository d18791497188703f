"""R2E-Gym's parser and rule: the outcome of every test must be as expected, and there must be as many.

Both as in R2E-Gym @0277f10 (`execution_log_parser`, `DockerRuntime._calculate_reward_r2e`). swebench has neither.
"""

import re
from collections.abc import Iterable, Mapping

EXACT = "exact"
"""`InstanceTests.eval_type` of this rule."""
PARSER = "parse_log_r2e_gym"

_HEADER = "short test summary info"
_WORDS = ("PASSED", "FAILED", "ERROR")
"""What counts of a summary, in the order in which pytest prints it."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m|\r")


def parse_summary(log: str) -> dict[str, str]:
    """Return test -> outcome of pytest's short summary; tests are named "Class.test", without their file."""
    parts = _COLOURS.sub("", log).split(_HEADER)
    found = {}
    for line in parts[1].strip().split("\n") if len(parts) > 1 else ():
        word = next((word for word in _WORDS if word in line), None)
        if word is not None:
            found[".".join(line.split("::")[1:])] = word
    return without_messages(found)


def without_messages(outcomes: Mapping[str, str]) -> dict[str, str]:
    """Cut what pytest says behind " - " off the tests' names; of names that are the same then, the last one counts."""
    return {_COLOURS.sub("", test).split(" - ")[0]: outcome for test, outcome in sorted(outcomes.items())}


def as_summary(outcomes: Iterable[tuple[str, str]]) -> str:
    """Write (test's id, outcome) as pytest's short summary does, for `parse_summary`."""
    ordered = sorted(outcomes, key=lambda pair: _WORDS.index(pair[1]) if pair[1] in _WORDS else 0)
    return "\n".join([_HEADER, *(f"{outcome} {test}" for test, outcome in ordered)])


def as_expected(expected: Mapping[str, str], outcomes: Mapping[str, str]) -> set[str]:
    """Return the tests whose outcome is the expected one."""
    return {test for test, outcome in expected.items() if test and outcomes.get(test) == outcome}


def is_exact(expected: Mapping[str, str], outcomes: Mapping[str, str]) -> bool:
    """Apply the rule. What has no name (an error that belongs to no test) only counts as one more."""
    named = {test for test in outcomes if test}
    return len(outcomes) == len(expected) and named == as_expected(expected, outcomes)
