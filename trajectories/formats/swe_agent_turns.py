"""Recorded actions of SWE-agent -> turns, which `assemble` makes steps of.

Holds how an action's text is split into commands, and the rules for actions that are no call. Leaves out what a command
means (`swe_agent_tools`) and how a file writes its records (the readers).

Rules:
- An action without a command of SWE-agent is a bash command as it stands.
- Several commands in one action stay one action, joined as they were; a `submit` at its end is a step of its own.
- What SWE-agent wrote when it gave up (`exit_cost`, `exit_context`, an empty last action…) is no decision of the agent.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import SUBMIT
from srl_swe.trajectories.formats.assemble import Call, Turn
from srl_swe.trajectories.formats.chat import clean_observation
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.trajectories.formats.swe_agent_tools import LineEdit, ToolAction, compile_line_edit, compile_tool, is_tool
from srl_swe.trajectories.formats.swe_agent_window import Answer, Place, Viewer, find_windows
from srl_swe.trajectories.formats.texts import EDITOR, editor_arguments

_EXIT = re.compile(r"exit_\w+|skip|###SWE-AGENT-EXIT-FORFEIT###")
_EXIT_THOUGHT = re.compile(r"\s*Exit(?:ed|ing)?\b")
_LINE_EDIT = re.compile(
    r"^edit(?:[ \t]+(\d{1,9})[ \t:]+(\d{1,9}))?[ \t]*(?:<<[ \t]*['\"]?end_of_edit['\"]?[ \t]*)?\n"
    r"((?:.*\n)*?)end_of_edit[ \t]*$",
    re.MULTILINE,
)
_TOKEN = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|<<|&&|;|\n|[^'\"\\<&;\n]+|.", re.DOTALL)
_FIRST_WORD = re.compile(r"\s*([\w.-]+)(?=\s|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One turn of SWE-agent, as a file holds it."""

    thought: str
    action: str
    observation: str | None
    """Without the scaffold's prompt. None = never answered."""
    before: Place
    """Where the shell and the viewer stood, as far as the file says."""
    after: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class _Command:
    text: str
    line_edit: LineEdit | None = None
    connector: str = ""
    """What joins it to the next command: `&&`, `;` or a line break."""

    @property
    def name(self) -> str:
        """Which of SWE-agent's commands it is; empty for what bash knows."""
        if self.line_edit:
            return "edit"
        word = _FIRST_WORD.match(self.text)
        return word.group(1) if word and (is_tool(word.group(1)) or word.group(1) in (EDITOR, SUBMIT)) else ""


def record_turns(records: Sequence[Record], *, source: str, where: str, drops: DropCounter) -> list[Turn]:
    """Compile the records of a run to turns; what is left out is counted in `drops`."""
    turns = []
    viewer = Viewer()
    for index, record in enumerate(records):
        place = f"{where}, action {index}"
        viewer.move_to(record.before)
        commands = _split_action(record.action)
        if not viewer.working_dir and record.after.working_dir and not record.action.lstrip().startswith("cd"):
            viewer.move_to(Place(working_dir=record.after.working_dir))
        is_exit = not record.action.strip() and (index == len(records) - 1 or _EXIT_THOUGHT.match(record.thought))
        if is_exit or _EXIT.fullmatch(record.action.strip()):
            drops.drop(source, Reason.SCAFFOLD_EXIT, place)
            continue
        try:
            calls = _calls(commands, record, viewer)
        except DataError as error:
            drops.drop(source, Reason.UNKNOWN_CALL, f"{place}: {error}")
        else:
            if calls is None:
                drops.drop(source, Reason.REFUSED_CALL, place)
            else:
                turns.append(Turn(text=record.thought, calls=calls))
        viewer.move_to(record.after)
    return turns


def _split_action(action: str) -> list[_Command]:
    """Split an action into the commands that bash would run one after another.

    Only at the top level, and not where a here-document or an open quote makes that uncertain: that is one command.
    """
    commands: list[_Command] = []
    position = 0
    for found in _LINE_EDIT.finditer(action):
        commands += _split_line(action[position : found.start()])
        lines = (int(found.group(1)), int(found.group(2))) if found.group(1) else None
        edit = LineEdit(lines=lines, text=found.group(3))
        commands.append(_Command(text=found.group(), line_edit=edit, connector="\n"))
        position = found.end()
    commands += _split_line(action[position:])
    return commands or [_Command(text=action)]


def _split_line(text: str) -> list[_Command]:
    commands: list[_Command] = []
    words = ""
    for found in _TOKEN.finditer(text):
        token = found.group()
        if token in ("<<", "'", '"'):
            return [_Command(text=text.strip(), connector="\n")]
        if token in ("&&", ";", "\n"):
            if words.strip():
                commands.append(_Command(text=words.strip(), connector=token))
            words = ""
        else:
            words += token
    if words.strip():
        commands.append(_Command(text=words.strip(), connector="\n"))
    return commands


def _calls(commands: Sequence[_Command], record: Record, viewer: Viewer) -> tuple[Call, ...] | None:
    """Return the calls of one record; None = SWE-agent refused one of its commands."""
    observation = record.observation
    if not any(command.name for command in commands):
        for command in commands:
            _follow(command, viewer)
        return (_bash(record.action, observation),)
    if len(commands) == 1 and commands[0].name == EDITOR:
        return (_editor_call(commands[0].text, observation),)
    calls: tuple[Call, ...] = ()
    if commands[-1].name == SUBMIT:
        if len(commands) == 1:
            return (_bash(SUBMIT, observation),)
        calls = (_bash(SUBMIT, observation),)
        commands, observation = commands[:-1], ""
    answer = Answer(text=observation, windows=find_windows(observation or ""))
    compiled: list[ToolAction] = []
    for command in commands:
        action = _compile(command, viewer, answer)
        if action is None:
            return None
        compiled.append(action)
    if len(compiled) == 1:
        only = compiled[0]
        shown = observation if only.observation is None or observation is None else only.observation
        return (_bash(only.action, shown, only.exit_code), *calls)
    return (_bash(_joined(commands, compiled), observation), *calls)


def _compile(command: _Command, viewer: Viewer, answer: Answer) -> ToolAction | None:
    if command.line_edit:
        return compile_line_edit(command.line_edit, viewer, answer)
    if not command.name:
        _follow(command, viewer)
        return ToolAction(action=command.text)
    if command.name in (EDITOR, SUBMIT):
        raise DataError(f"{command.name} between other commands of one action is not understood")
    return compile_tool(_words(command.text), viewer, answer)


def _joined(commands: Sequence[_Command], compiled: Sequence[ToolAction]) -> str:
    text = ""
    for command, tool, is_last in zip(commands, compiled, [False] * (len(commands) - 1) + [True], strict=True):
        text += tool.action
        if is_last:
            break
        if "\n" in tool.action and command.name:
            if command.connector == "&&":
                raise DataError(f"{command.name} && another command is not understood")
            text += "\n"
        else:
            text += {"&&": " && ", ";": "; "}.get(command.connector, "\n")
    return text


def _follow(command: _Command, viewer: Viewer) -> None:
    if re.match(r"cd(?:\s|$)", command.text):
        try:
            viewer.change_dir(shlex.split(command.text))
        except ValueError:
            viewer.change_dir(())


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise DataError(f"{text.split(maxsplit=1)[0]}: its words cannot be told apart: {error}") from None


def _bash(command: str, observation: str | None, exit_code: int | None = None) -> Call:
    return Call(name="bash", arguments={"command": command}, observation=observation, exit_code=exit_code)


def _editor_call(text: str, observation: str | None) -> Call:
    arguments = editor_arguments(text)
    if observation is None:
        return Call(name=EDITOR, arguments=arguments, observation=None)
    shown, exit_code, _ = clean_observation(observation, command=None)
    return Call(name=EDITOR, arguments=arguments, observation=shown, exit_code=exit_code)
