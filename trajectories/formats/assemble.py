"""From the turns of a conversation to the steps of a trajectory, alike for every format.

Holds the rules for calls that are no step of their own. Leaves out how a format writes its turns (its reader) and
what a call means as a command (`actions`).

Rules:
- Several calls of one turn are a step each; the thought goes to the first.
- A turn without a call is no step. Its text serves as thought where the next turn has none.
- A `submit` that was not the last call (SWE-smith's review round) is left out: in our episodes submit is the end.
- A key press (empty command, ctrl+c) is left out: our commands end by themselves, or at the time limit.
- Text typed into a running process, or a scaffold failure, ends the trajectory there: a fresh command cannot repeat it.
  A command that the scaffold refused because another one was running did nothing, and is left out.
- A call that was never answered is left out, unless it is the last of the trajectory.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import BASH_NAMES, CompiledCall, clean_text, compile_call
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.types import Step

_SCAFFOLD_ERROR = "[Error occurred in processing last action]"
_NOT_EXECUTED = re.compile(
    r"is NOT executed\. The previous command is still running|No previous running command to interact with"
)
"""OpenHands' words (openhands/runtime/utils/bash.py)."""
_PROBLEM_TAGS = ("pr_description", "problem_statement", "issue_description", "issue")
_PROBLEM_LEAD = re.compile(r"^\s*Consider the following (?:PR|issue) description:\s*\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One tool call and its answer."""

    name: str
    arguments: Mapping[str, object] | None
    """None = the arguments could not be parsed."""
    observation: str | None
    """None = never answered."""
    exit_code: int | None = None
    still_running: bool = False
    """The scaffold said that the process was not finished: what comes next may be its input."""
    working_dir: str = ""
    """Where the shell stood afterwards; "" = not recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What the agent said, and the calls it made, in order."""

    text: str
    calls: tuple[Call, ...]


def build_steps(turns: Sequence[Turn], *, source: str, where: str, drops: DropCounter) -> tuple[Step, ...]:
    """Compile turns to steps by the rules of this module; what is left out is counted in `drops`."""
    steps: list[Step] = []
    num_calls = sum(len(turn.calls) for turn in turns)
    call_index = -1
    carried = ""
    still_running = False
    working_dir = ""
    for turn in turns:
        thought = turn.text.strip() or carried
        carried = thought
        for call in turn.calls:
            call_index += 1
            place = f"{where}, call {call_index}"
            compiled = _compile(call, working_dir, source, place, drops)
            working_dir = call.working_dir or working_dir
            if compiled is None or compiled.kind == "nothing":
                continue
            if compiled.kind == "thought":
                thought = carried = _joined(thought, compiled.thought)
                continue
            if compiled.kind == "control_key":
                drops.drop(source, Reason.CONTROL_KEY, place)
                still_running = call.still_running
                continue
            if call.name in BASH_NAMES and _NOT_EXECUTED.search(call.observation or ""):
                drops.drop(source, Reason.NOT_EXECUTED, place)
                continue
            if compiled.kind == "process_input" or (
                still_running and call.name in BASH_NAMES and compiled.kind == "action"
            ):
                drops.drop(source, Reason.PROCESS_INPUT, place)
                return tuple(steps)
            if call.observation is not None and _SCAFFOLD_ERROR in call.observation:
                drops.drop(source, Reason.SCAFFOLD_ERROR, place)
                return tuple(steps)
            is_last = call_index == num_calls - 1
            if compiled.before_submit:
                steps.append(
                    Step(thought=clean_text(thought), action=compiled.before_submit, observation="", exit_code=None)
                )
                thought = ""
            if compiled.kind == "submit" and not is_last:
                drops.drop(source, Reason.EARLY_SUBMIT, place)
                continue
            if call.observation is None and not is_last:
                drops.drop(source, Reason.MISSING_OBSERVATION, place)
                continue
            steps.append(
                Step(
                    thought=clean_text(_joined(thought, compiled.thought)),
                    action=compiled.action,
                    observation="" if compiled.kind == "submit" else clean_text(call.observation or ""),
                    exit_code=None if compiled.kind == "submit" else call.exit_code,
                )
            )
            thought = carried = ""
            still_running = call.still_running
    return tuple(steps)


def find_problem_statement(text: str) -> str | None:
    """Return what stands between the problem tags of a published prompt, or None.

    >>> find_problem_statement("Consider:\\n<pr_description>\\nIt fails.\\n</pr_description>\\nMeet <pr_description>.")
    'It fails.'
    """
    text = clean_text(text).replace("\r\n", "\n")
    for tag in _PROBLEM_TAGS:
        start, end = text.find(f"<{tag}>"), text.rfind(f"</{tag}>")
        if 0 <= start < end:
            inner = text[start + len(tag) + 2 : end]
            return _PROBLEM_LEAD.sub("", inner).strip() or None
    return None


def _compile(call: Call, working_dir: str, source: str, place: str, drops: DropCounter) -> CompiledCall | None:
    if call.arguments is None:
        drops.drop(source, Reason.MALFORMED_CALL, f"{place}: arguments of {call.name!r} cannot be parsed")
        return None
    try:
        return compile_call(
            call.name, call.arguments, working_dir=working_dir, observation=clean_text(call.observation or "")
        )
    except DataError as error:
        drops.drop(source, Reason.UNKNOWN_CALL, f"{place}: {error}")
        return None


def _joined(first: str, second: str) -> str:
    return f"{first}\n\n{second}".strip()
