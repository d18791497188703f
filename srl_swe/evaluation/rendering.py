"""Rows of older SWE-bench schemas get, once and for good, what v5 rows say of running their tests.

That is looked up in v5 rows of the same instances, never derived: scripts come from files of the repositories, which
takes a network, and swebench 5 no longer has the code. A row that differs from its v5 row in what judges is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srl_swe.environments.instances import instance_from_row, read_rows
from srl_swe.environments.rows.fields import name_of
from srl_swe.environments.rows.swebench import is_older_swebench, is_swebench
from srl_swe.errors import DataError
from srl_swe.files import write_atomically

_FILLED_IN = ("image", "eval_script", "log_parser", "eval_type")
_SAME = ("repo", "base_commit", "patch", "test_patch", "FAIL_TO_PASS", "PASS_TO_PASS")
_LISTS = ("FAIL_TO_PASS", "PASS_TO_PASS")
_MAX_NAMED = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """What was done with a file of rows."""

    num_filled_in: int
    num_unchanged: int
    """Rows that were v5 already."""


def render_rows(file: Path, like: Sequence[Path], out: Path) -> Rendered:
    """Write the rows of `file`, in its order, as v5 rows to `out`, at once; `like` are files of v5 rows.

    Raises:
        DataError: a file cannot be read, or a row is no SWE-bench row, has no v5 row, or differs from it. Nothing is
            written then.
    """
    known = _v5_rows(like)
    rows: list[Mapping[str, Any]] = []
    missing: list[str] = []
    num_filled_in = 0
    for where, row in read_rows(file):
        if is_swebench(row):
            rows.append(row)
            continue
        if not is_older_swebench(row):
            raise DataError(
                f"{name_of(row, where)}: expected a SWE-bench row (base_commit, test_patch…), found {_columns(row)}"
            )
        instance_id = str(row.get("instance_id"))
        if instance_id not in known:
            missing.append(instance_id)
            continue
        filled = _filled_in(row, *known[instance_id], where=where)
        instance_from_row(filled, where=where)
        rows.append(filled)
        num_filled_in += 1
    if missing:
        more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        raise DataError(
            f"{file}: no v5 row in {', '.join(map(str, like))} for {', '.join(missing[:_MAX_NAMED])}{more}; give the"
            " file of v5 rows that has them with --like (the SWE-bench organisation's data sets on the hub have every"
            " instance in schema v5)"
        )
    if not rows:
        raise DataError(f"{file}: expected at least one row, found none")
    write_atomically(out, "".join(json.dumps(row, default=str) + "\n" for row in rows))
    return Rendered(num_filled_in=num_filled_in, num_unchanged=len(rows) - num_filled_in)


def _v5_rows(files: Sequence[Path]) -> dict[str, tuple[Mapping[str, Any], str]]:
    """Return v5 row and where it stands by instance id; the first file that has an id counts."""
    known: dict[str, tuple[Mapping[str, Any], str]] = {}
    for file in files:
        for where, row in read_rows(file):
            if not is_swebench(row):
                raise DataError(
                    f"{name_of(row, where)}: expected a SWE-bench v5 row (image, eval_script…), found {_columns(row)}"
                )
            known.setdefault(str(row["instance_id"]), (row, where))
    return known


def _filled_in(row: Mapping[str, Any], v5_row: Mapping[str, Any], v5_where: str, *, where: str) -> dict[str, Any]:
    for name in _SAME:
        mine, theirs = _plain(name, row.get(name)), _plain(name, v5_row.get(name))
        if mine != theirs:
            raise DataError(
                f"{where}, instance {row.get('instance_id')}: field `{name}` is not that of {v5_where}, so its script"
                f" may not judge this row: expected {_short(theirs)}, found {_short(mine)}"
            )
    return {**row, **{name: v5_row[name] for name in _FILLED_IN if name in v5_row}}


def _columns(row: Mapping[str, Any]) -> list[str]:
    return sorted(name for name, value in row.items() if value is not None)


def _plain(name: str, value: Any) -> Any:
    if name not in _LISTS:
        return value
    try:
        return sorted(json.loads(value) if isinstance(value, str) else value)
    except (ValueError, TypeError):
        return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"
