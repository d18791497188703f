"""Rows of OpenHands' evaluation files (`output.jsonl`): the events of 2025 (V0), their pairs and flat forms of 2024.

Source: github.com/All-Hands-AI/OpenHands, evaluation/utils/shared.py (`EvalOutput`), evaluation/benchmarks/swe_bench;
the rows of its issue resolver (openhands/resolver) have the same history. Leaves out the events (`openhands_events`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from srl_swe.errors import DataError
from srl_swe.trajectories.actions import clean_text
from srl_swe.trajectories.formats.assemble import build_steps, find_problem_statement
from srl_swe.trajectories.formats.drops import DropCounter, Reason
from srl_swe.trajectories.formats.openhands_events import Event, event_turns, fields_of, read_events
from srl_swe.trajectories.formats.reports import resolved_by_report
from srl_swe.types import Trajectory

SOURCE = "openhands"

_MAX_STATUS_CHARS = 80


def read_row(row: Mapping[str, object], *, path: Path, where: str, drops: DropCounter) -> Trajectory | None:
    """Read one row, or count in `drops` why it cannot be used.

    The outcome is a report in the row, else SWE-bench's `report.json` beside the file.

    Raises:
        DataError: a field is not what the format says.
    """
    events = read_events(row.get("history"))
    problem_statement = _problem_statement(row, events)
    if not problem_statement:
        drops.drop(SOURCE, Reason.NO_PROBLEM_STATEMENT, where)
        return None
    instance_id = _instance_id(row)
    if not instance_id:
        drops.drop(SOURCE, Reason.NO_INSTANCE_ID, where)
        return None
    metadata = _mapping(row, "metadata")
    run = PurePosixPath(_text(metadata, "eval_output_dir")).name
    return Trajectory(
        trajectory_id=f"{instance_id}:{run}" if run else "",
        instance_id=instance_id,
        problem_statement=problem_statement,
        steps=build_steps(event_turns(events), source=SOURCE, where=where, drops=drops),
        patch=_text(_mapping(row, "test_result"), "git_patch") or _text(row, "git_patch"),
        source=SOURCE,
        model=_text(_mapping(metadata, "llm_config"), "model") or _text(metadata, "model_name"),
        resolved=_reported(row, path, instance_id),
        exit_status=_exit_status(row, events),
    )


def _problem_statement(row: Mapping[str, object], events: Sequence[Event]) -> str:
    for field in ("instance", "swe_instance"):
        if statement := _text(_mapping(row, field), "problem_statement"):
            return _cleaned(statement)
    if body := _text(_mapping(row, "issue"), "body"):
        return _cleaned(f"{_text(_mapping(row, 'issue'), 'title')}\n{body}")
    prompts = [_text(row, "instruction")]
    prompts += [_text(fields_of(event, "args"), "content") for event in events if event.get("action") == "message"]
    return next((found for prompt in prompts if (found := find_problem_statement(prompt))), "")


def _instance_id(row: Mapping[str, object]) -> str:
    for fields in (row, _mapping(row, "instance"), _mapping(row, "swe_instance")):
        if instance_id := _text(fields, "instance_id"):
            return instance_id
    issue = _mapping(row, "issue")
    number = issue.get("number")
    if _text(issue, "owner") and _text(issue, "repo") and isinstance(number, int):
        return f"{issue['owner']}__{issue['repo']}-{number}"
    return ""


def _reported(row: Mapping[str, object], path: Path, instance_id: str) -> bool | None:
    """Return the verdict of a report in the row or near the file; the resolver's `success` is a model's opinion only.

    Raises:
        DataError: the report's `resolved` is no truth value.
    """
    test_result = _mapping(row, "test_result")
    for report in (row, _mapping(row, "report"), _mapping(test_result, "report"), _mapping(test_result, "result")):
        resolved = report.get("resolved")
        if resolved is None:
            continue
        if isinstance(resolved, bool) or resolved in (0, 1):
            return bool(resolved)
        raise DataError(f"`resolved` must be true, false, 0, 1 or null, found {str(resolved)[:40]!r}")
    return resolved_by_report(path, instance_id)


def _exit_status(row: Mapping[str, object], events: Sequence[Event]) -> str:
    """Return the name of the error that ended the run, else "finished" where the agent said so."""
    error = clean_text(_text(row, "error")).strip()
    if error:
        return error.split("\n")[0][:_MAX_STATUS_CHARS]
    actions = [event["action"] for event in events if isinstance(event.get("action"), str)]
    return "finished" if actions and actions[-1] == "finish" else ""


def _mapping(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return a field that holds fields, which some files keep as JSON text; {} where it is nothing of the kind."""
    value = fields.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, Mapping) else {}


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _cleaned(text: str) -> str:
    return clean_text(text).replace("\r\n", "\n").strip()
