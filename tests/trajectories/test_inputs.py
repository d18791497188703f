"""Files are told by content, read in bounded memory, and broken ones refused with what to do."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from srl_swe.errors import DataError
from srl_swe.trajectories import inputs
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.trajectories.inputs import list_files, parse_json, read_chunks, rows_of
from tests.trajectories.rows import smith_lines, smith_row


def places(path: Path) -> list[str]:
    return [where for file in list_files([path]) for chunk in read_chunks(file) for where, _ in rows_of(chunk)]


def ids(path: Path, drops: DropCounter | None = None) -> list[str]:
    return [t.trajectory_id for t in read_trajectories([path], drops=drops or DropCounter())]


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "rows.json", "rows", "rows.jsonl.gz", "rows.bin", "rows.zst", "x.parquet"]
)
def test_packing_and_kind_are_told_by_content(tmp_path: Path, name: str) -> None:
    lines = smith_lines(5)
    path = tmp_path / name
    if name.endswith(("gz", "bin")):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith("zst"):
        path.write_bytes(zstandard.compress(lines.encode()))
    elif name.endswith("parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([json.loads(line) for line in lines.splitlines()]), path)
    else:
        path.write_text(lines)
    assert ids(path) == [f"run-{number}" for number in range(5)]


def test_a_document_a_list_and_one_row_without_a_line_break(tmp_path: Path) -> None:
    row = smith_row(commands=("ls",), traj_id="a")
    for index, text in enumerate(
        (json.dumps(row), json.dumps(row, indent=1), json.dumps([row, {"messages": 7}]), "\ufeff" + json.dumps(row))
    ):
        path = tmp_path / f"{index}.json"
        path.write_text(text, encoding="utf-8")
        drops = DropCounter()
        folder = tmp_path / f"folder{index}"
        folder.mkdir()
        path.rename(folder / path.name)
        assert ids(folder, drops) == ["a"]


def test_a_pretty_document_under_a_jsonl_name_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(smith_row(commands=("ls",), traj_id="a"), indent=2))
    assert ids(tmp_path / "a.jsonl") == ["a"]


def test_rows_keep_their_numbers_over_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "CHUNK_BYTES", 700)
    (tmp_path / "a.jsonl").write_text(smith_lines(3) + "\n\n" + smith_lines(4, first=3).removesuffix("\n"))
    found = places(tmp_path / "a.jsonl")
    assert [int(where.split("row ")[1]) for where in found] == [0, 1, 2, 5, 6, 7, 8]
    assert ids(tmp_path / "a.jsonl") == [f"run-{number}" for number in range(7)]


@pytest.mark.parametrize("packed", [gzip.compress, zstandard.compress])
def test_truncated_archives_are_refused_or_counted_after_their_whole_rows(tmp_path: Path, packed: object) -> None:
    # Random-looking rows, so that the cut is far behind the first ones.
    lines = "".join(
        json.dumps(smith_row(commands=(f"echo {index} {hash((index, 'x'))}" * 9,), traj_id=f"{index}")) + "\n"
        for index in range(400)
    )
    content = packed(lines.encode())  # type: ignore[operator]
    path = tmp_path / "a.jsonl.packed"
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match=r"a\.jsonl\.packed.*fetch"):
        ids(path)
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "a.jsonl.gz")
    (tmp_path / "folder" / "b.jsonl").write_text(smith_lines(1))
    drops = DropCounter()
    assert "run-0" in ids(tmp_path / "folder", drops)
    assert drops.counts.total() >= 1 and drops.num_rows >= 1


def test_two_gigabytes_on_one_line_are_refused_in_little_memory(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "big.jsonl"
    with path.open("wb") as stream:
        stream.write(b'{"messages": "')
        stream.truncate(2 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"big.jsonl.*more than 64 MiB.*jq -c"):
        ids(path)
    (tmp_path / "rows.jsonl").write_text(smith_lines(2))
    path.rename(tmp_path / "big.json")
    with pytest.raises(DataError, match=r"big.json.*more than 64 MiB.*jq -c"):
        ids(tmp_path / "big.json")
    drops = DropCounter()
    assert ids(tmp_path, drops) == ["run-0", "run-1"]
    assert drops.to_dict()["unknown"] == {"row_too_large": 1}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_line_that_is_too_long_is_passed_over_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(inputs, "MAX_ROW_BYTES", 5000)
    long = json.dumps(smith_row(commands=("x" * 20_000,), traj_id="long")) + "\n"
    (tmp_path / "a.jsonl").write_text(smith_lines(3) + long + smith_lines(2, first=3))
    drops = DropCounter()
    assert ids(tmp_path, drops) == [f"run-{number}" for number in range(5)]
    assert drops.to_dict()["unknown"] == {"row_too_large": 1}
    assert places(tmp_path)[-1].endswith("row 5")


def test_a_parquet_with_renamed_columns_says_what_it_found(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"conversation": [json.dumps([{"role": "user", "content": "x"}])], "task": ["owner__name-1"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 0.*\['conversation', 'task'\].*rename"):
        ids(tmp_path / "a.parquet")


def test_a_parquet_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"messages": ["x" * 100] * 500}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"a\.parquet: not a whole parquet file.*fetch it again"):
        ids(tmp_path / "a.parquet")


def test_json_is_read_leniently() -> None:
    assert parse_json(b'{"a": NaN}') != parse_json(b'{"a": 1}')
    assert parse_json(b'"\\ud800"') == "\ud800"
    assert parse_json(b'"\xff"') == "\ufffd"
    with pytest.raises(ValueError, match="nested"):
        parse_json(b"[" * 100_000)


def test_lone_surrogates_and_nul_bytes_do_not_reach_actions(tmp_path: Path) -> None:
    row = json.dumps(smith_row(commands=("printf '\ud800\x00x'",)))
    (tmp_path / "a.jsonl").write_text(row)
    (trajectory,) = read_trajectories([tmp_path / "a.jsonl"], drops=DropCounter())
    assert trajectory.steps[0].action == "printf '\ufffdx'"
    assert "\x00" not in trajectory.steps[0].observation


def test_a_trajectory_without_an_assistant_turn_is_counted(tmp_path: Path) -> None:
    row = smith_row(commands=("ls",))
    row["messages"] = row["messages"][:2]  # type: ignore[index]
    row["traj_id"] = "none"
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + smith_lines(1))
    drops = DropCounter()
    assert ids(tmp_path, drops) == ["run-0"]
    assert sum(count for reasons in drops.to_dict().values() for count in reasons.values()) == 1


def test_one_id_for_two_contents_is_told_and_both_are_kept(tmp_path: Path) -> None:
    rows = [smith_row(commands=(command,), traj_id="same") for command in ("ls", "pwd")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drops = DropCounter()
    first, second = ids(tmp_path / "a.jsonl", drops)
    assert first == "same" and second.startswith("same:")
    assert drops.to_dict()["swe_smith"]["reused_id"] == 1
    assert "row 1" in drops.places("swe_smith", "reused_id")[0]  # type: ignore[arg-type]
