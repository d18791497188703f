"""Chat messages of SWE-smith and SWE-Gym -> turns, in the three encodings of the same calls.

Encodings: `tool_calls` of the OpenAI kind, `<function=NAME><parameter=KEY>…` text, and a last fenced block. Holds the
clean-up of observations too: what the scaffold put around a command's output is taken off, its exit code read.
"""

import json
import re
from collections.abc import Mapping, Sequence

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import BASH_NAMES, CELL_NAMES, DRAFT_NAMES
from srl_swe.trajectories.formats.assemble import Call, Turn
from srl_swe.trajectories.formats.texts import EDITOR, editor_arguments, fenced_blocks, split_tail

_FUNCTION = re.compile(r"<function=([\w.-]+)>")
_PARAMETER = re.compile(r"\s*<parameter=(\w+)>(.*?)</parameter>(?=\s*(?:<parameter=\w+>|</function>))", re.DOTALL)
_FUNCTION_END = re.compile(r"\s*</function>")
_FIRST_FENCE = re.compile(r"(?:^|(?<=\n\n))```[ \t]*\n")
_LAST_FENCE = re.compile(r"\n?^```\s*$\Z", re.MULTILINE)
_ANY_FENCE = re.compile(r"^```", re.MULTILINE)
_PREFIX = re.compile(r"(?:EXECUTION RESULT of \[\w+\]:\s*\n)?(?:OBSERVATION:\n|Observation: )?(?:ERROR:\n)?")
_TRAILERS = (
    re.compile(r"\n?\[Command finished with exit code (-?\d+)\]\s*$"),
    re.compile(r"\n?\[The command completed with exit code (-?\d+)\.(?: CTRL\+\w was sent\.)?\]\s*$"),
    re.compile(r"\n?\[Current working directory: [^\n]*\]\s*$"),
    re.compile(r"\n?\[Python [Ii]nterpreter: [^\n]*\]\s*$"),
    re.compile(r"\n?[^\n]*\[Jupyter [^\n]*\]\s*$"),
    re.compile(r"(?:^|\n)[\w.-]+@[\w.-]+:[^\n]*? [#$] ?\s*$"),
)
_NO_OUTPUT = "Your command ran successfully and did not produce any output."
_EDITOR_SUCCESS = (
    "Here's the result of running",
    "Here's the files and directories",
    "The file ",
    "File created successfully",
    "Last edit to ",
    "<NOTE>This file is too large",
)
_UNFINISHED = re.compile(r"\n?\[The command (?:has no new output|timed out) after [^\n]*\]\s*$")
_PROMPT_DIR = re.compile(r"(?:^|\n)[\w.-]+@[\w.-]+:(/[^\s]*) [#$] ?\s*(?=\n\[|$)")
_TOLD_DIR = re.compile(r"\n\[Current working directory: (/[^\n]*)\](?=\s*(?:\n\[|$))")
_NOTEBOOK_LINE = re.compile(r"\n?\[Jupyter [^\n]*\]\s*$")
_STILL_RUNNING = -1


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, null, or a list of parts.

    Raises:
        DataError: the content is none of these.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [part.get("text") or "" for part in content if isinstance(part, Mapping)]
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)
    raise DataError(f"a message's `content` must be text or a list of text parts, found {type(content).__name__}")


def read_messages(value: object, field: str = "messages") -> list[Mapping[str, object]]:
    """Return the messages of a row, which may be a JSON string, nulls left out. `field` is their name, for messages.

    Raises:
        DataError: it is no list of messages with roles.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"`{field}` is text but not JSON: {error}") from None
    if not isinstance(value, list):
        raise DataError(f"`{field}` must be a list, found {type(value).__name__}")
    messages: list[Mapping[str, object]] = []
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DataError(f"`{field}`[{index}] must be an object with a `role`, found {str(message)[:80]!r}")
        messages.append({key: item for key, item in message.items() if item is not None})
    return messages


def chat_turns(messages: Sequence[Mapping[str, object]]) -> list[Turn]:
    """Return the turns of the assistant messages, each call with its answer."""
    turns = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        answers = []
        for answer in messages[index + 1 :]:
            if answer["role"] == "assistant":
                break
            answers.append(answer)
        text = text_of(message.get("content"))
        tool_calls = message.get("tool_calls")
        if isinstance(tool_calls, list) and tool_calls:
            turns.append(_tool_turn(text, tool_calls, answers))
        else:
            turns.append(_text_turn(text, answers))
    return turns


def clean_observation(text: str, *, command: str | None, exit_code: int | None = None) -> tuple[str, int | None, bool]:
    """Take the scaffold's words off an observation.

    Args:
        text: The recorded answer.
        command: The bash command that it answers, whose echo is taken off; None for an editor's answer.
        exit_code: Where the format tells it outside the text; -1 = still running.

    Returns:
        The observation, its exit code where the scaffold told it, and whether the process was still running.
    """
    text = text.replace("\r\n", "\n")
    text = text[_PREFIX.match(text).end() :]  # type: ignore[union-attr]  # matches the empty text too
    if text.strip() == _NO_OUTPUT:
        return "", None, False
    if command is None:
        return text.rstrip("\n"), 0 if text.startswith(_EDITOR_SUCCESS) else 1, False
    body, tail = split_tail(text)
    if unfinished := _UNFINISHED.search(tail):
        tail, exit_code = tail[: unfinished.start()], _STILL_RUNNING
    found_trailer = True
    while found_trailer:
        found_trailer = False
        for pattern in _TRAILERS:
            found = pattern.search(tail)
            if found and (exit_code is not None or pattern.groups):
                tail, found_trailer = tail[: found.start()], True
                if pattern.groups and exit_code is None:
                    exit_code = int(found.group(1))
    text = body + tail
    if exit_code is not None:
        text = _without_echo(text, command)
    if exit_code == _STILL_RUNNING:
        return text, None, True
    return text, exit_code if exit_code is None or exit_code >= 0 else None, False


def _without_echo(text: str, command: str) -> str:
    """Take off the terminal's echo of a command: its lines, continuation lines after `> `."""
    shown, expected = text.split("\n"), command.strip().replace("\r\n", "\n").split("\n")
    for index, line in enumerate(expected):
        if index >= len(shown) or shown[index].removeprefix("> " if index else "").rstrip() != line.rstrip():
            return text
    return "\n".join(shown[len(expected) :])


def clean_cell_output(text: str) -> str:
    """Take the scaffold's words off the answer of a notebook."""
    text = text.replace("\r\n", "\n")
    text = text[_PREFIX.match(text).end() :]  # type: ignore[union-attr]  # matches the empty text too
    body, tail = split_tail(text)
    while found := _NOTEBOOK_LINE.search(tail):
        tail = tail[: found.start()]
    return body + tail


def told_working_dir(text: str) -> str:
    """Return the folder where the shell stood after a command, told by OpenHands' last lines or prompt; "" = not told.

    >>> told_working_dir("x\\n[Current working directory: /testbed]\\n[Command finished with exit code 0]")
    '/testbed'
    """
    _, tail = split_tail(text.replace("\r\n", "\n"))
    found = [found for pattern in (_TOLD_DIR, _PROMPT_DIR) for found in pattern.finditer(tail)]
    return found[-1].group(1) if found else ""


def _call(name: str, arguments: Mapping[str, object] | None, answer: str | None) -> Call:
    if answer is None:
        return Call(name=name, arguments=arguments, observation=None)
    if name in CELL_NAMES or name in DRAFT_NAMES:
        return Call(name=name, arguments=arguments, observation=clean_cell_output(answer))
    is_editor = name not in BASH_NAMES
    command = None if is_editor else str((arguments or {}).get("command") or "")
    observation, exit_code, still_running = clean_observation(answer, command=command)
    return Call(
        name=name,
        arguments=arguments,
        observation=observation,
        exit_code=exit_code,
        still_running=still_running,
        working_dir="" if is_editor else told_working_dir(answer),
    )


def _tool_turn(text: str, tool_calls: list[object], answers: Sequence[Mapping[str, object]]) -> Turn:
    by_id: dict[str, str] = {}
    without_id: list[str] = []
    for answer in answers:
        ids = answer.get("tool_call_ids") or [answer.get("tool_call_id")]
        first = ids[0] if isinstance(ids, list) and ids else None
        if isinstance(first, str):
            by_id[first] = text_of(answer.get("content"))
        elif answer["role"] == "tool":
            without_id.append(text_of(answer.get("content")))
    calls = []
    for tool_call in tool_calls:
        function = tool_call.get("function") if isinstance(tool_call, Mapping) else None
        if not isinstance(tool_call, Mapping) or not isinstance(function, Mapping):
            raise DataError(f"a tool call must be an object with a `function`, found {str(tool_call)[:80]!r}")
        call_id = tool_call.get("id")
        recorded = by_id.get(call_id) if isinstance(call_id, str) else None
        if recorded is None and without_id:
            recorded = without_id.pop(0)
        calls.append(_call(str(function.get("name")), _parse_arguments(function.get("arguments")), recorded))
    return Turn(text=text, calls=tuple(calls))


def _parse_arguments(value: object) -> Mapping[str, object] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}", strict=False)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, Mapping) else None


def _text_turn(text: str, answers: Sequence[Mapping[str, object]]) -> Turn:
    recorded = text_of(answers[0].get("content")) if answers else None
    text = text.replace("\r\n", "\n")
    start = _FUNCTION.search(text)
    if start:
        parsed = _xml_calls(text, start.start())
        calls = [_call(name, arguments, recorded if i == 0 else None) for i, (name, arguments) in enumerate(parsed)]
        return Turn(text=text[: start.start()], calls=tuple(calls))
    written = _written_block(text)
    is_answered = recorded is not None and recorded.startswith(("OBSERVATION:", "Observation:", _NO_OUTPUT))
    if written and (is_answered or written[1].strip() == "submit"):
        name, arguments = _command_line_call(written[1])
        return Turn(text=written[0], calls=(_call(name, arguments, recorded),))
    return Turn(text=text, calls=())


def _written_block(text: str) -> tuple[str, str] | None:
    """Return what stands before the block that ends a ticks message, and the block; else those of its last block.

    The block may hold fences of its own (a Markdown file): a bash command in pairs, an editor's call in any number.
    """
    ending = _LAST_FENCE.search(text)
    if ending:
        written = [
            (text[: opening.start()], text[opening.end() : ending.start()])
            for opening in reversed(list(_FIRST_FENCE.finditer(text, 0, ending.start())))
        ]
        for before, block in written:
            if block.startswith(f"{EDITOR} ") and _command_line_call(block)[1] is not None:
                return before, block
        for before, block in written:
            if len(_ANY_FENCE.findall(block)) % 2 == 0:
                return before, block
    blocks = fenced_blocks(text)
    return (text[: blocks[-1].start], blocks[-1].content) if blocks else None


def _xml_calls(text: str, position: int) -> list[tuple[str, Mapping[str, object] | None]]:
    calls: list[tuple[str, Mapping[str, object] | None]] = []
    while found := _FUNCTION.search(text, position):
        position = found.end()
        arguments: dict[str, object] = {}
        while parameter := _PARAMETER.match(text, position):
            arguments[parameter.group(1)] = _parameter_value(parameter.group(2))
            position = parameter.end()
        end = _FUNCTION_END.match(text, position)
        calls.append((found.group(1), arguments if end else None))
        if not end:
            break
        position = end.end()
    return calls


def _parameter_value(value: str) -> str:
    """Take off the line breaks that the encoding puts around a value."""
    return value[1:-1] if len(value) > 1 and value.startswith("\n") and value.endswith("\n") else value


def _command_line_call(line: str) -> tuple[str, Mapping[str, object] | None]:
    """Read a fenced block: a shell command, `submit`, or a call of the editor."""
    stripped = line.strip()
    if stripped == "submit":
        return "submit", {}
    if not stripped.startswith(f"{EDITOR} "):
        return "bash", {"command": stripped}
    return EDITOR, editor_arguments(stripped)
