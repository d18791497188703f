"""Each real row of every format: read, and read with damage: a clear reason, never a stack trace or a wrong step."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srl_swe.trajectories.inputs import list_files, read_chunks, rows_of
from tests.trajectories.mutations import mutated, read_or_refuse


@cache
def rows(folder: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (place, row) of every row that lies in the folder, reports left out."""
    return list(_rows(folder))


def _rows(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for file in list_files([folder]):
        for chunk in () if file.path.name == "report.json" else read_chunks(file):
            for where, row in rows_of(chunk):
                assert isinstance(row, Mapping)
                yield where, row


def test_every_real_row_is_read_by_itself_or_has_a_reason(shared_data: Path, tmp_path: Path) -> None:
    outcomes = [read_or_refuse(tmp_path / "row.jsonl", row) for _, row in rows(shared_data / "trajectories")]
    assert len(outcomes) == 172
    # SWE-smith's three derived samples have no instance id.
    assert outcomes.count("read") == 169 and outcomes.count("dropped") == 3


@pytest.mark.parametrize(
    "name", ["mini_swe_agent", "expert_pypi", "swe_smith.jsonl", "swe_gym_openhands_sampled.jsonl"]
)
def test_damaged_real_rows_are_read_or_refused(name: str, shared_data: Path, tmp_path: Path) -> None:
    found = rows(shared_data / "trajectories" / name)

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        where, row = data.draw(st.sampled_from(found))
        read_or_refuse(tmp_path / "row.jsonl", data.draw(mutated({"instance_id": where, **shortened(row)})))

    check()


def shortened(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the first turns and the last one: what is long is no harder to damage, only slower."""
    messages = row["messages"]
    if isinstance(messages, str):
        messages = json.loads(messages)
    return {**row, "messages": [*messages[:9], *messages[-1:]]}
