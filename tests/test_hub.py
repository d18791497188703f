"""Data sets of the hub: the real loading code, on a data set in a folder; and what is said without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srl_swe.hub import hub_tables, is_hub_name
from srl_swe.trajectories.compilation import compile_files
from srl_swe.trajectories.steps import StepFilter
from tests.trajectories.rows import smith_lines

pytest.importorskip("datasets")


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of two splits that `datasets` finds under a hub's name, because the folder is there."""
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "owner" / "runs" / "data"
    folder.mkdir(parents=True)
    for split, first in (("tool", 0), ("xml", 20)):
        rows = [json.loads(line) for line in smith_lines(30, first=first).splitlines()]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return "owner/runs"


def compiled_ids(name: str, work: Path) -> tuple[list[str], dict[str, dict[str, int]]]:
    with compile_files([hub_tables(name)], work, step_filter=StepFilter()) as compiled:
        ids = [json.loads(line)["trajectory_id"] for line in compiled.records.read_text().splitlines()]
    return ids, compiled.drops.to_dict()


def test_all_splits_are_streamed_and_the_same_runs_told(data_set: str, tmp_path: Path) -> None:
    ids, drops = compiled_ids(data_set, tmp_path / "w")
    assert sorted(ids) == sorted(f"run-{number}" for number in range(50))
    assert drops == {"swe_smith": {"duplicate": 10}}


def test_one_split(data_set: str, tmp_path: Path) -> None:
    ids, _ = compiled_ids(f"{data_set}:xml", tmp_path / "w")
    assert ids == [f"run-{number}" for number in range(20, 50)]


@pytest.mark.parametrize(
    ("text", "is_name"),
    [("SWE-Gym/OpenHands-SFT-Trajectories", True), ("a/b:train", True), ("a", False), ("a/b/c", False), ("/a", False)],
)
def test_names(text: str, is_name: bool) -> None:
    assert is_hub_name(text) is is_name


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from srl_swe.cli.main import main; main()",
        "data",
        "compile",
        "owner/no-such-set",
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "steps")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "owner/no-such-set: neither a file or folder here, nor a data set that the hub gives" in said
    assert "local .parquet or .jsonl file" in said and "Traceback" not in said
