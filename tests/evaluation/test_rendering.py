"""Rows of older SWE-bench schemas, filled in from real v5 rows: the same instances, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from srl_swe.cli.eval import run
from srl_swe.environments.instances import load_instances, read_rows
from srl_swe.errors import DataError
from srl_swe.evaluation.rendering import Rendered, render_rows

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

NEW_COLUMNS = ("image", "eval_script", "log_parser", "eval_type")


@pytest.fixture
def v5_file(shared_data: Path) -> Path:
    return shared_data / "swebench" / "lite_dev.parquet"


def older(row: Any) -> dict[str, Any]:
    """Return the row without what v5 added, its lists as the JSON text that they were."""
    kept = {name: value for name, value in row.items() if name not in NEW_COLUMNS}
    for name in ("FAIL_TO_PASS", "PASS_TO_PASS"):
        kept[name] = kept[name] if isinstance(kept[name], str) else json.dumps(list(kept[name]))
    return kept


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def old_rows(v5_file: Path) -> list[dict[str, Any]]:
    return [older(row) for _, row in read_rows(v5_file)]


def test_the_command_makes_the_same_instances(
    v5_file: Path, old_rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write(tmp_path / "old.jsonl", old_rows)
    with pytest.raises(DataError, match=r"older schema.*srl-swe eval render"):
        load_instances(old)
    out = tmp_path / "rows.jsonl"
    assert run(["render", str(old), "--like", str(v5_file), "--out", str(out)]) == 0
    assert "23 rows filled in; written to" in capsys.readouterr().out
    assert load_instances(out) == load_instances(v5_file)
    assert render_rows(out, [v5_file], out) == Rendered(num_filled_in=0, num_unchanged=23)


def test_another_order_of_the_tests_is_no_difference(
    v5_file: Path, old_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    row = old_rows[0]
    row["PASS_TO_PASS"] = json.dumps(json.loads(row["PASS_TO_PASS"])[::-1])
    assert render_rows(write(tmp_path / "old.jsonl", [row]), [v5_file], tmp_path / "out.jsonl").num_filled_in == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"base_commit": "0" * 40},
            r"line 2, instance .*: field `base_commit` is not that of .*lite_dev.parquet, row 2",
        ),
        ({"test_patch": "diff"}, "field `test_patch` is not that of"),
        ({"FAIL_TO_PASS": "[]"}, "field `FAIL_TO_PASS` is not that of"),
        ({"instance_id": "django__django-1"}, "no v5 row in .* for django__django-1; give the file"),
        (
            {"test_patch": None},
            r"line 2, instance .*: expected a SWE-bench row \(base_commit, test_patch…\), found \['FAIL",
        ),
    ],
)
def test_what_is_not_the_same_is_refused_and_nothing_written(
    v5_file: Path, old_rows: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    rows = [old_rows[0], {**old_rows[1], **change}]
    with pytest.raises(DataError, match=message):
        render_rows(write(tmp_path / "old.jsonl", rows), [v5_file], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_other_rows_are_refused(v5_file: Path, old_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a SWE-bench row"):
        render_rows(write(tmp_path / "old.jsonl", [{"instance_id": "x"}]), [v5_file], tmp_path / "out.jsonl")
    with pytest.raises(DataError, match="expected a SWE-bench v5 row"):
        old = write(tmp_path / "old.jsonl", old_rows)
        render_rows(old, [old], tmp_path / "out.jsonl")
