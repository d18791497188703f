"""The scripted expert: what it does next, from what it has seen so far.

It knows the repair, but every command before the edit must follow from the problem statement or from earlier
observations: the test from the statement, the function from the traceback or the test's source, the lines from the
function's definition. Where that does not lead to the bug it gives up. Running commands is left to `recording`.
"""

import re
import shlex
from collections.abc import Generator
from dataclasses import dataclass

from srl_swe.demo.instances import Repair
from srl_swe.trajectories.actions import SUBMIT, edit_replace
from srl_swe.types import Completion

WINDOW_LINES = 16
"""About as much as a short prompt shows of an observation."""
MAX_WINDOWS = 6
LINES_AROUND_FRAME = 8

REASONS = {
    "arithmetic_operator": "The arithmetic operator is wrong",
    "boolean_operator": "`and` and `or` are mixed up",
    "comparison_operator": "The comparison is wrong",
    "constant": "The constant is wrong",
    "dropped_statement": "A statement is missing",
    "exception_type": "The wrong exception is caught",
    "negated_condition": "The condition is the wrong way round",
    "off_by_one": "The index is off by one",
    "swapped_arguments": "Two arguments are swapped",
    "wrong_return": "The wrong value is returned",
    "wrong_variable": "The wrong variable is used",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the environment answered to a command."""

    observation: str
    exit_code: int | None


class ExpertGaveUpError(Exception):
    """The script does not lead to the bug, or its repair did not help; the message is counted."""


Script = Generator[Completion, Answer, None]


def repair_script(problem_statement: str, repair: Repair) -> Script:
    """Yield thoughts and commands; each is answered by `send`. The last command is `submit`.

    Raises:
        ExpertGaveUpError: out of `send`, when what was seen does not lead on.
    """
    test = _failing_test(problem_statement)
    run_test = f"python -m pytest -q --tb=short -rN --disable-warnings {shlex.quote(test)}"
    answer = yield Completion(
        thought=f"The issue says that {_name(test)} fails. I run this test to see the error.", action=run_test
    )
    if answer.exit_code != 1:
        raise ExpertGaveUpError("the test does not fail alone")
    error = _error_line(answer.observation)
    if not (yield from _find_lines(repair, test, error, f"{problem_statement}\n{answer.observation}")):
        raise ExpertGaveUpError("the bug is too far from the definition")
    answer = yield Completion(thought=_explanation(repair), action=edit_replace(repair.path, repair.old, repair.new))
    if answer.exit_code != 0:
        raise ExpertGaveUpError("the edit failed")
    answer = yield Completion(thought=f"The file is edited. I run {_name(test)} again.", action=run_test)
    if answer.exit_code != 0:
        raise ExpertGaveUpError("the test still fails")
    yield Completion(thought=f"{_name(test)} passes now. I submit the change.", action=SUBMIT)


def _find_lines(repair: Repair, test: str, error: str, seen: str) -> Generator[Completion, Answer, bool]:
    """Go to the lines of the bug; return whether they were shown."""
    frame = _last_frame(seen, repair.path)
    if frame is not None and abs(frame[0] - repair.line) <= LINES_AROUND_FRAME:
        line, function = frame
        answer = yield Completion(
            thought=f"The error is `{error}`. It comes from {function}, line {line} of {repair.path}. I read it.",
            action=_show(repair.path, line - LINES_AROUND_FRAME, line + LINES_AROUND_FRAME),
        )
        if repair.old in answer.observation:
            return True
        seen += answer.observation
    definition = _known_definition(repair, seen)
    if definition is None:
        path = test.partition("::")[0]
        answer = yield Completion(
            thought=f"The error is `{error}`. I read {_name(test)} to see what it calls.",
            action=f"grep -n -A 20 {shlex.quote(f'def {_name(test)}(')} {path}",
        )
        definition = _known_definition(repair, answer.observation)
        if definition is None:
            raise ExpertGaveUpError("the function is not named by the test or its traceback")
        thought = f"{_name(test)} uses {_defined_name(definition)}. I look for it in {repair.path}."
    else:
        thought = f"The error is `{error}`. I look for {_defined_name(definition)} in {repair.path}."
    answer = yield Completion(thought=thought, action=f"grep -n {shlex.quote(definition)} {repair.path}")
    lines = [int(number) for number in re.findall(r"^(\d+):", answer.observation, re.MULTILINE)]
    if not any(line <= repair.line for line in lines):
        raise ExpertGaveUpError("the definition was not found")
    start = max(line for line in lines if line <= repair.line)
    thought = f"{_defined_name(definition)} starts at line {start}. I read it."
    for _ in range(MAX_WINDOWS):
        answer = yield Completion(thought=thought, action=_show(repair.path, start, start + WINDOW_LINES - 1))
        if repair.old in answer.observation:
            return True
        start += WINDOW_LINES
        thought = "Nothing is wrong up to here. I read on."
    return False


def _failing_test(problem_statement: str) -> str:
    found: list[str] = re.findall(r"^FAILED (\S+)", problem_statement, re.MULTILINE)
    if not found:
        raise ExpertGaveUpError("the problem statement names no failing test")
    return min(found, key=len)


def _name(test: str) -> str:
    """Return the function of a test id.

    >>> _name("tests/test_a.py::TestB::test_c[1::2]")
    'test_c'
    """
    return test.partition("[")[0].rpartition("::")[2]


def _error_line(observation: str) -> str:
    """Return pytest's first error line, shortened."""
    found = re.search(r"^E +(.+)$", observation, re.MULTILINE)
    text = found[1].strip() if found else "not shown"
    return text if len(text) <= 100 else f"{text[:100]}…"


def _last_frame(seen: str, path: str) -> tuple[int, str] | None:
    frames: list[tuple[str, str]] = re.findall(rf"^{re.escape(path)}:(\d+): in (\S+)", seen, re.MULTILINE)
    return (int(frames[-1][0]), frames[-1][1]) if frames else None


def _known_definition(repair: Repair, seen: str) -> str | None:
    """Return how the definition that holds the bug starts, if its name was seen: "def name(" or "class Name"."""
    is_special = repair.function.startswith("__")
    if not is_special and re.search(rf"\b{re.escape(repair.function)}\b", seen):
        return f"def {repair.function}("
    if repair.class_name and re.search(rf"\b{re.escape(repair.class_name)}\b", seen):
        return f"class {repair.class_name}" if is_special else f"def {repair.function}("
    return None


def _defined_name(definition: str) -> str:
    return definition.split()[1].removesuffix("(")


def _show(path: str, start: int, end: int) -> str:
    return f"sed -n {max(1, start)},{end}p {path}"


def _explanation(repair: Repair) -> str:
    reason = REASONS[repair.kind]
    old, new = repair.old.split("\n"), repair.new.split("\n")
    added = [line.strip() for line in new if line not in old]
    removed = [line.strip() for line in old if line not in new]
    if removed and added:
        return f"{reason}: `{removed[0]}` should be `{added[0]}`."
    return f"{reason}: `{(added or [new[-1].strip()])[0]}`. I put it back."
