"""Which instances an evaluation asks for: real task rows, and names that nobody knows."""

from collections import Counter
from pathlib import Path

import pytest

from srl_swe.environments.instances import instance_from_row
from srl_swe.errors import DataError
from srl_swe.evaluation.splits import HUB_SPLITS, load_split
from tests.environments.rows.published import r2e_gym_row, swe_rebench_row, swe_smith_row


@pytest.mark.parametrize(
    ("file", "count"), [("verified_test", 500), ("lite_test", 300), ("full_dev", 225), ("multilingual_test", 300)]
)
def test_local_files_of_real_rows(shared_data: Path, file: str, count: int) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    instances = load_split(str(shared_data / "swebench" / f"{file}.parquet"))
    assert len({instance.instance_id for instance in instances}) == count


def test_difficulty_is_the_rows_word(shared_data: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    instances = load_split(str(shared_data / "swebench" / "verified_test.parquet"))
    words = Counter(instance.difficulty for instance in instances)
    assert words == {"15 min - 1 hour": 261, "<15 min fix": 194, "1-4 hours": 42, ">4 hours": 3}
    lite = load_split(str(shared_data / "swebench" / "lite_test.parquet"))
    assert {instance.difficulty for instance in lite} == {""}


@pytest.mark.parametrize("name", ["verify", "SWE-bench", "owner/name", "a/b/c:test", ""])
def test_unknown_names_say_what_is_known(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if not name:
        with pytest.raises(DataError):
            load_split(name)
        return
    with pytest.raises(DataError, match="neither a file nor a known split; expected one of verified, lite"):
        load_split(name)


@pytest.mark.parametrize("name", ["./absent.jsonl", "absent.parquet", "/absent"])
def test_missing_files(name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_split(name)


def test_without_a_network_it_asks_for_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("verified", "swe-gym", "swe-smith", "swe-rebench", "r2e-gym", "no-such-owner/no-such-data:test"):
        with pytest.raises(DataError, match=r"cannot be loaded from the hub.*give a local"):
            load_split(name)


def test_rows_of_other_sets_come_from_the_hub_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A data set that `datasets` finds under a hub's name, because the folder is there."""
    pytest.importorskip("datasets", reason="datasets is not installed")
    import pyarrow
    from pyarrow import parquet

    rows = {
        "smith": swe_smith_row(),
        "rebench": swe_rebench_row("b" * 40, image="owner/image:1"),
        "r2e": r2e_gym_row(image="owner/image:1"),
    }
    for name, row in rows.items():
        (tmp_path / "owner" / name / "data").mkdir(parents=True)
        file = tmp_path / "owner" / name / "data" / "train-00000-of-00001.parquet"
        parquet.write_table(pyarrow.Table.from_pylist([row]), file)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, row in rows.items():
        assert load_split(f"owner/{name}:train") == (instance_from_row(row, where=""),)


def test_names_are_lower_case() -> None:
    assert all(name == name.lower() for name in HUB_SPLITS)
