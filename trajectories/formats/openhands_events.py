"""OpenHands' events -> turns: which event answers which, and what an action event is as a call.

Source: github.com/All-Hands-AI/OpenHands, openhands/events/{action,observation,serialization}, in the versions of 2024
and 2025 (V0). An event is {id, source, action, args} or {id, cause, observation, content, extras}; in early 2024 the
fields of `args` and `extras` stand in the event itself. Leaves out the fields of a row (`openhands`).
"""

from collections.abc import Mapping, Sequence

from srl_swe.errors import DataError
from srl_swe.trajectories.formats.assemble import Call, Turn
from srl_swe.trajectories.formats.chat import clean_cell_output, clean_observation, told_working_dir

Event = Mapping[str, object]

_NO_CALL_KINDS = frozenset(
    {
        "system",
        "recall",
        "condensation",
        "condensation_request",
        "null",
        "start",
        "init",
        "initialize",
        "change_agent_state",
        "task_tracking",
        "summarize",
        "add_task",
        "modify_task",
        "loop_recovery",
        "pause",
        "resume",
        "stop",
        "push",
        "send_pr",
    }
)
"""Actions of the scaffold, of the user and of the bookkeeping: nothing that a shell would see."""


def read_events(history: object) -> list[Event]:
    """Return the events of a row's `history`: a list of events, or of [action, observation] pairs.

    Raises:
        DataError: it is neither.
    """
    if not isinstance(history, list):
        raise DataError(f"`history` must be a list of events, found {type(history).__name__}")
    events: list[Event] = []
    for index, item in enumerate(history):
        pair = item if isinstance(item, list) else [item]
        for event in pair:
            if not isinstance(event, Mapping) or not (
                isinstance(event.get("action"), str) or isinstance(event.get("observation"), str)
            ):
                raise DataError(
                    f"`history`[{index}] must be an event with an `action` or an `observation`, or a pair of them; "
                    f"found {str(event)[:80]!r}"
                )
            events.append(event)
    return events


def event_turns(events: Sequence[Event]) -> list[Turn]:
    """Return a turn for each action of the agent: its thought, and its call with the answer."""
    answers = {
        cause: event for event in reversed(events) if isinstance(cause := event.get("cause"), int) and _is_answer(event)
    }
    turns = []
    for index, event in enumerate(events):
        kind = event.get("action")
        if not isinstance(kind, str) or kind in _NO_CALL_KINDS:
            continue
        args = fields_of(event, "args")
        if kind == "message":
            if _is_by_agent(event, args):
                turns.append(Turn(text=_text(args, "content"), calls=()))
            continue
        event_id = event.get("id")
        answer = answers.get(event_id) if isinstance(event_id, int) else None
        if answer is None and index + 1 < len(events):
            following = events[index + 1]
            answer = following if _is_answer(following) and following.get("cause") is None else None
        thought = "" if kind == "think" else _text(args, "thought")
        turns.append(Turn(text=thought, calls=(_call(kind, args, answer),)))
    return turns


def fields_of(event: Event, name: str) -> Mapping[str, object]:
    """Return the fields of an event: those under `args` or `extras`, or in early 2024 the event itself."""
    inner = event.get(name)
    return inner if isinstance(inner, Mapping) else event


def _is_answer(event: Event) -> bool:
    kind = event.get("observation")
    return isinstance(kind, str) and kind not in ("null", "agent_state_changed", "recall") and "action" not in event


def _is_by_agent(event: Event, args: Mapping[str, object]) -> bool:
    """Early 2024 does not say who wrote a message; there only the agent waits for a response."""
    source = event.get("source", args.get("source"))
    return source == "agent" if isinstance(source, str) else args.get("wait_for_response") is True


def _call(kind: str, args: Mapping[str, object], answer: Event | None) -> Call:
    name, arguments = _name_and_arguments(kind, args, answer)
    if answer is None:
        return Call(name=name, arguments=arguments, observation=None)
    extras = fields_of(answer, "extras")
    content = _text(answer, "content")
    if kind == "run":
        return _run_call(name, arguments, answer, extras)
    if kind == "run_ipython":
        return Call(name=name, arguments=arguments, observation=clean_cell_output(content))
    failed = content.startswith("ERROR:") or answer.get("observation") == "error"
    observation, _, _ = clean_observation(content, command=None)
    return Call(name=name, arguments=arguments, observation=observation, exit_code=1 if failed else 0)


def _run_call(name: str, arguments: Mapping[str, object], answer: Event, extras: Mapping[str, object]) -> Call:
    metadata = extras.get("metadata")
    told = metadata if isinstance(metadata, Mapping) else {}
    content = f"{_text(told, 'prefix')}{_text(answer, 'content')}{_text(told, 'suffix')}"
    exit_code = told.get("exit_code", extras.get("exit_code"))
    observation, code, still_running = clean_observation(
        content,
        command=_text(arguments, "command"),
        exit_code=int(exit_code) if isinstance(exit_code, int) and answer.get("observation") == "run" else None,
    )
    return Call(
        name=name,
        arguments=arguments,
        observation=observation,
        exit_code=code,
        still_running=still_running,
        working_dir=_text(told, "working_dir") or told_working_dir(_text(answer, "content")),
    )


def _name_and_arguments(
    kind: str, args: Mapping[str, object], answer: Event | None
) -> tuple[str, Mapping[str, object]]:
    """Return what `actions.compile_call` takes; a kind of action without a meaning there is named by itself."""
    if kind == "run":
        return "execute_bash", args
    if kind == "run_ipython":
        return "execute_ipython_cell", args
    if kind == "read":
        return "str_replace_editor", {"command": "view", "path": args.get("path"), "view_range": _read_lines(args)}
    if kind == "write":
        start, end = args.get("start"), args.get("end")
        first = start + 1 if isinstance(start, int) else 1
        written = {key: args.get(key) for key in ("path", "content")}
        return "edit_file", {**written, "start": first, "end": end, "is_exact": True}
    if kind == "edit":
        return _edit(args, answer)
    if kind == "finish":
        return "finish", {"message": args.get("final_thought")}
    if kind in ("call_tool_mcp", "mcp"):
        arguments = args.get("arguments")
        return _text(args, "name") or kind, arguments if isinstance(arguments, Mapping) else {}
    return kind, args


def _read_lines(args: Mapping[str, object]) -> object:
    """Return the view range of a read: `view_range`, else `start` (from 0) up to, not including, `end` (-1 = all)."""
    start, end = args.get("start"), args.get("end")
    if args.get("view_range") is not None or not isinstance(start, int) or not isinstance(end, int):
        return args.get("view_range")
    return None if start <= 0 and end == -1 else [start + 1, end]


def _edit(args: Mapping[str, object], answer: Event | None) -> tuple[str, Mapping[str, object]]:
    code = args.get("translated_ipython_code")
    if isinstance(args.get("command"), str) and args.get("command"):
        return "str_replace_editor", args
    if isinstance(code, str) and code:
        return "execute_ipython_cell", {"code": code}
    draft = {key: args.get(key) for key in ("path", "content", "start", "end")}
    extras = fields_of(answer, "extras") if answer is not None else {}
    old, new = extras.get("old_content"), extras.get("new_content")
    if not isinstance(new, str) or not isinstance(old, str | None) or (old or "") == new:
        return "edit_file", draft
    path = args.get("path")
    if not old and extras.get("prev_exist") is not True:
        return "str_replace_editor", {"command": "create", "path": path, "file_text": new}
    whole = {"path": path, "content": new, "is_exact": True}
    if not old:
        return "edit_file", whole
    old_lines, new_lines = (text.removesuffix("\n").split("\n") for text in (old, new))
    return ("edit_file", whole) if old_lines == new_lines else _exact_edit(path, old_lines, new_lines)


def _exact_edit(path: object, old: Sequence[str], new: Sequence[str]) -> tuple[str, Mapping[str, object]]:
    """Return the call that makes the change that a draft came to: the lines from the first to the last changed one.

    Whether the file's last line ends with a line break is left as it is.
    """
    shorter = min(len(old), len(new))
    first = next((index for index in range(shorter) if old[index] != new[index]), shorter)
    same = shorter - first
    num_after = next((index for index in range(same) if old[-1 - index] != new[-1 - index]), same)
    end = len(old) - num_after
    text = "".join(f"{line}\n" for line in new[first : len(new) - num_after])
    if first == end:
        return "str_replace_editor", {"command": "insert", "path": path, "insert_line": first, "new_str": text[:-1]}
    return "edit_file", {"path": path, "content": text, "start": first + 1, "end": end, "is_exact": True}


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
