"""Damage as published rows have it: a hypothesis strategy that changes a JSON value in up to three places."""

import json
from collections.abc import Mapping
from pathlib import Path

from hypothesis import strategies as st

from srl_swe.errors import DataError
from srl_swe.trajectories.formats import DropCounter, read_trajectories

_WRONG_VALUES = (
    None,
    True,
    0,
    -7,
    3.5,
    1e400,
    "",
    "\ud800\x00",
    "[",
    "<function=x>",
    [],
    {},
    [[]],
    [None],
    {"role": 7},
)


def mutated(value: object) -> st.SearchStrategy[object]:
    """Return a strategy for `value` with one to three places deleted, replaced, cut, repeated or of another type."""
    return st.integers(1, 3).flatmap(lambda times: _times(value, times))


def read_or_refuse(path: Path, row: object) -> str:
    """Write a row to `path` and read it; return "read", "dropped" or the message of the refusal.

    Fails where a trajectory is not well formed, where a row vanishes without a count, and on every other exception.
    """
    path.write_text(json.dumps(row) + "\n")
    drops = DropCounter()
    try:
        trajectories = list(read_trajectories([path], drops=drops))
    except DataError as error:
        assert str(path) in str(error)
        assert any(word in str(error) for word in ("expected", "must", "found", "not JSON", "not valid"))
        return str(error)
    for trajectory in trajectories:
        assert trajectory.instance_id
        assert trajectory.problem_statement
        assert trajectory.steps
        for step in trajectory.steps:
            assert step.action == step.action.strip() != ""
            "".join([step.action, step.thought, step.observation, trajectory.exit_status]).encode()
            assert step.exit_code is None or step.exit_code >= 0
    assert trajectories or drops.num_rows, "a row vanished"
    return "read" if trajectories else "dropped"


def _times(value: object, times: int) -> st.SearchStrategy[object]:
    once = _once(value)
    return once if times == 1 else once.flatmap(lambda changed: _times(changed, times - 1))


@st.composite
def _once(draw: st.DrawFn, value: object) -> object:
    inner = _inner(value)
    keys: list[object] = list(inner) if isinstance(inner, Mapping) else list(range(len(inner)))  # type: ignore[call-overload]
    if not keys or draw(st.integers(0, 7)) == 0:
        return draw(_damaged(value))
    key = draw(st.sampled_from(keys))
    is_missing = draw(st.integers(0, 9)) == 0
    changed = _without(inner, key) if is_missing else _with(inner, key, draw(_once(inner[key])))  # type: ignore[index]
    return json.dumps(changed) if isinstance(value, str) else changed


def _inner(value: object) -> object:
    """Return the list or object that a value is, or that its text holds as JSON; else an empty list."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    return value if isinstance(value, dict | list) else []


def _damaged(value: object) -> st.SearchStrategy[object]:
    wrong = st.sampled_from(_WRONG_VALUES)
    if isinstance(value, str):
        return wrong | st.integers(0, len(value)).map(lambda end: value[:end]) | st.just([value])
    if isinstance(value, list):
        return (
            wrong | st.integers(0, len(value)).map(lambda end: value[:end]) | st.just(value * 2) | st.just({"0": value})
        )
    if isinstance(value, dict):
        return wrong | st.just([value]) | st.just(list(value)) | st.just(json.dumps(value))
    return wrong | st.just(str(value))


def _without(value: object, key: object) -> object:
    if isinstance(value, Mapping):
        return {name: item for name, item in value.items() if name != key}
    return [item for index, item in enumerate(value) if index != key]  # type: ignore[arg-type,var-annotated]


def _with(value: object, key: object, item: object) -> object:
    if isinstance(value, Mapping):
        return {**value, key: item}
    return [item if index == key else old for index, old in enumerate(value)]  # type: ignore[arg-type,var-annotated]
