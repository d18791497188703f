"""Chat messages of SWE-smith and SWE-Gym -> turns, in the three encodings of the same calls.

Encodings: `tool_calls` of the OpenAI kind, `<function=NAME><parameter=KEY>…` text, and a last fenced block. Holds the
clean-up of observations too: what the scaffold put around a command's output is taken off, its exit code read.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import BASH_NAMES
from srl_swe.trajectories.formats.assemble import Call, Turn

_FUNCTION = re.compile(r"<function=([\w.-]+)>")
_PARAMETER = re.compile(r"\s*<parameter=(\w+)>(.*?)</parameter>(?=\s*(?:<parameter=\w+>|</function>))", re.DOTALL)
_FUNCTION_END = re.compile(r"\s*</function>")
_FENCED = re.compile(r"^```[\w-]*\n(.*?)\n?^```[ \t]*$", re.DOTALL | re.MULTILINE)
_PREFIX = re.compile(r"(?:EXECUTION RESULT of \[\w+\]:\s*\n)?(?:OBSERVATION:\n|Observation: )?(?:ERROR:\n)?")
_TRAILERS = (
    re.compile(r"\n?\[Command finished with exit code (-?\d+)\]\s*$"),
    re.compile(r"\n?\[The command completed with exit code (-?\d+)\.\]\s*$"),
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


def read_messages(value: object) -> list[Mapping[str, object]]:
    """Return the messages of a row, which may be a JSON string, nulls left out.

    Raises:
        DataError: it is no list of messages with roles.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"`messages` is text but not JSON: {error}") from None
    if not isinstance(value, list):
        raise DataError(f"`messages` must be a list, found {type(value).__name__}")
    messages: list[Mapping[str, object]] = []
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DataError(f"`messages`[{index}] must be an object with a `role`, found {str(message)[:80]!r}")
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


def clean_observation(text: str, *, command: str | None) -> tuple[str, int | None, bool]:
    """Take the scaffold's words off an observation.

    Args:
        text: The recorded answer.
        command: The bash command that it answers, whose echo is taken off; None for an editor's answer.

    Returns:
        The observation, its exit code where the scaffold told it, and whether the process was still running.
    """
    text = text.replace("\r\n", "\n")
    text = text[_PREFIX.match(text).end() :]  # type: ignore[union-attr]  # matches the empty text too
    if text.strip() == _NO_OUTPUT:
        return "", None, False
    if command is None:
        return text.rstrip("\n"), 0 if text.startswith(_EDITOR_SUCCESS) else 1, False
    exit_code = None
    found_trailer = True
    while found_trailer:
        found_trailer = False
        for pattern in _TRAILERS:
            found = pattern.search(text)
            if found and (exit_code is not None or pattern.groups):
                text, found_trailer = text[: found.start()], True
                if pattern.groups and exit_code is None:
                    exit_code = int(found.group(1))
    if exit_code is not None:
        text = _without_echo(text, command)
    if exit_code == _STILL_RUNNING:
        return text, None, True
    return text, exit_code, False


def _without_echo(text: str, command: str) -> str:
    """Take off the terminal's echo of a command: its lines, continuation lines after `> `."""
    shown, expected = text.split("\n"), command.strip().replace("\r\n", "\n").split("\n")
    for index, line in enumerate(expected):
        if index >= len(shown) or shown[index].removeprefix("> " if index else "").rstrip() != line.rstrip():
            return text
    return "\n".join(shown[len(expected) :])


def _call(name: str, arguments: Mapping[str, object] | None, answer: str | None) -> Call:
    if answer is None:
        return Call(name=name, arguments=arguments, observation=None)
    is_editor = name not in BASH_NAMES
    command = None if is_editor else str((arguments or {}).get("command") or "")
    observation, exit_code, still_running = clean_observation(answer, command=command)
    return Call(
        name=name, arguments=arguments, observation=observation, exit_code=exit_code, still_running=still_running
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
        except ValueError:
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
    blocks = list(_FENCED.finditer(text))
    is_answered = recorded is not None and recorded.startswith(("OBSERVATION:", "Observation:", _NO_OUTPUT))
    if blocks and (is_answered or blocks[-1].group(1).strip() == "submit"):
        name, arguments = _command_line_call(blocks[-1].group(1))
        return Turn(text=text[: blocks[-1].start()], calls=(_call(name, arguments, recorded),))
    return Turn(text=text, calls=())


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
    """Read a fenced block: a shell command, `submit`, or `str_replace_editor COMMAND PATH --option value…`."""
    stripped = line.strip()
    if stripped == "submit":
        return "submit", {}
    if not stripped.startswith("str_replace_editor "):
        return "bash", {"command": stripped}
    try:
        words = shlex.split(stripped)
    except ValueError:
        return "str_replace_editor", None
    if len(words) < 3:
        return "str_replace_editor", None
    arguments: dict[str, object] = {"command": words[1], "path": words[2]}
    key = ""
    for word in words[3:]:
        if word.startswith("--") and word[2:] in ("view_range", "file_text", "old_str", "new_str", "insert_line"):
            key = word[2:]
            arguments[key] = [] if key == "view_range" else ""
            continue
        value = arguments.get(key)
        if isinstance(value, list):
            value.append(word)
        elif key:
            arguments[key] = word
    return "str_replace_editor", arguments
