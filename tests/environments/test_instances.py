"""Rows become instances, and rows that are wrong are named exactly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srl_swe.environments.instances import instance_from_row, load_instances
from srl_swe.errors import DataError

Row = dict[str, Any]


@pytest.fixture
def v5_row() -> Row:
    return {
        "instance_id": "o__r-1",
        "repo": "o/r",
        "base_commit": "0" * 40,
        "patch": "--- a/x\n+++ b/x\n",
        "test_patch": "",
        "problem_statement": "It is broken.",
        "FAIL_TO_PASS": '["t.py::a"]',
        "PASS_TO_PASS": ["t.py::b"],
        "image": "registry/o__r-1:latest",
        "eval_script": (
            "#!/bin/bash\nset -uxo pipefail\nsource /opt/activate\nconda activate testbed\ncd /testbed\ntrue\n"
        ),
        "log_parser": "parse_log_pytest",
        "eval_type": "pass_and_fail",
    }


def test_a_v5_row_keeps_its_script_and_its_activation(v5_row: Row) -> None:
    instance = instance_from_row(v5_row, where="rows, row 1")
    assert instance.tests.script == v5_row["eval_script"]
    assert instance.tests.fail_to_pass == ("t.py::a",)
    assert instance.tests.pass_to_pass == ("t.py::b",)
    assert instance.environment.activate == "source /opt/activate\nconda activate testbed"
    assert instance.environment.recipe is None
    assert instance.tests.restore_image is None


def test_an_sdist_row_restores_whole_test_folders(tiny_row: Row) -> None:
    row = {**tiny_row, "test_files": ["tests/a/test_x.py", "src/pkg/tests/test_y.py", "test_z.py"]}
    instance = instance_from_row(row, where="rows, row 1")
    assert instance.tests.restore_paths == ("src/pkg/tests", "test_z.py", "tests")
    assert instance.environment.recipe is not None
    assert instance.environment.recipe.hidden_paths == ("tests/test_tinycalc.py",)
    assert instance.tests.restore_image is not None
    assert instance.tests.restore_image.startswith("srl-swe/sdist-tinycalc:")


def test_the_hosts_of_a_row_are_those_of_its_environment(v5_row: Row, tiny_row: Row) -> None:
    hosts = ["pypi.org", "*.example.org", "localhost:8080"]
    for row in (v5_row, tiny_row):
        assert instance_from_row(row, where="w").environment.network == ()
        assert instance_from_row({**row, "network": hosts}, where="w").environment.network == tuple(hosts)
        with pytest.raises(DataError, match=r"rows, row 3, instance .*field `network`: .*'http://x y/' is malformed"):
            instance_from_row({**row, "network": ["http://x y/"]}, where="rows, row 3")


def test_files_of_tests_are_found_in_the_test_ids_too(tiny_row: Row) -> None:
    row = {**tiny_row, "test_files": [], "f2p_test_files": [], "FAIL_TO_PASS": ["checks/test_a.py::test"]}
    instance = instance_from_row(row, where="rows, row 1")
    assert instance.tests.restore_paths == ("checks/test_a.py", "tests")
    assert instance.environment.recipe is not None
    assert instance.environment.recipe.hidden_paths == ()


@pytest.mark.parametrize(("timings", "timeout_s"), [({}, 120.0), ({"bug_s": 10.0, "gold_s": [3.0, 11.0]}, 220.0)])
def test_the_time_limit_follows_the_measured_times(tiny_row: Row, timings: Row, timeout_s: float) -> None:
    assert instance_from_row({**tiny_row, "timings": timings}, where="").tests.timeout_s == timeout_s


def test_image_names_depend_on_what_decides_the_content(tiny_row: Row) -> None:
    def images(**changes: Any) -> tuple[str, str | None]:
        instance = instance_from_row({**tiny_row, **changes}, where="")
        return instance.environment.image, instance.tests.restore_image

    image, package = images()
    assert images(problem_statement="other") == (image, package)
    other_bug = images(bug_patch=tiny_row["bug_patch"].replace("a - b", "a * b"))
    assert other_bug[0] != image
    assert other_bug[1] == package
    other_pins = images(pip_requirements=["pytest==8.3.5"])
    assert other_pins[0] != image
    assert other_pins[1] != package


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eval_type": "best_of"}, ["field `eval_type`", "'best_of'"]),
        ({"FAIL_TO_PASS": '["cut'}, ["field `FAIL_TO_PASS`"]),
        ({"PASS_TO_PASS": [1]}, ["field `PASS_TO_PASS.0`", "found 1"]),
        ({"image": ""}, ["field `image`"]),
        ({"patch": None}, ["field `patch`", "found None"]),
    ],
)
def test_a_wrong_field_of_a_v5_row_is_named(v5_row: Row, changes: Row, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        instance_from_row({**v5_row, **changes}, where="rows.jsonl, line 7")
    for word in ["rows.jsonl, line 7", "instance o__r-1", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"f2p_test_files": ["../../etc/passwd"]}, "f2p_test_files.0"),
        ({"f2p_test_files": [".git/config"]}, "f2p_test_files.0"),
        ({"test_files": ["/etc/passwd"]}, "test_files.0"),
        ({"workdir": "/"}, "workdir"),
        ({"pip_requirements": ["--index-url=http://somewhere"]}, "pip_requirements.0"),
        ({"pip_requirements": ["pytest"]}, "pip_requirements.0"),
        ({"log_parser": "nose"}, "log_parser"),
        ({"FAIL_TO_PASS": ["../x/test_a.py::t"]}, "FAIL_TO_PASS"),
    ],
)
def test_a_row_cannot_reach_outside_the_work_tree(tiny_row: Row, changes: Row, word: str) -> None:
    with pytest.raises(DataError, match=word):
        instance_from_row({**tiny_row, **changes}, where="rows, row 1")


def test_a_sdist_name_cannot_be_a_path(tiny_row: Row) -> None:
    package = {**tiny_row["package"], "sdist_filename": "../evil.tar.gz"}
    with pytest.raises(DataError, match=r"package\.sdist_filename"):
        instance_from_row({**tiny_row, "package": package}, where="rows, row 1")


def test_the_old_schema_says_what_to_get(v5_row: Row) -> None:
    old = {key: value for key, value in v5_row.items() if key not in ("image", "eval_script", "log_parser")}
    with pytest.raises(DataError, match="schema v5"):
        instance_from_row(old, where="rows, row 1")


def test_an_unknown_row_lists_its_fields() -> None:
    with pytest.raises(DataError, match=r"unknown kind of row.*\['question'\]"):
        instance_from_row({"question": "?"}, where="rows, row 1")


def test_jsonl_and_json_give_the_same(tmp_path: Path, v5_row: Row, tiny_row: Row) -> None:
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(v5_row)}\n\n{json.dumps(tiny_row)}\n")
    (tmp_path / "a.json").write_text(json.dumps([v5_row, tiny_row], indent=1))
    instances = load_instances(tmp_path / "a.jsonl")
    assert [instance.instance_id for instance in instances] == ["o__r-1", "srl-swe__tinycalc-1"]
    assert load_instances(tmp_path / "a.json") == instances


def test_parquet_gives_the_same(tmp_path: Path, v5_row: Row) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([v5_row]), tmp_path / "a.parquet")
    assert load_instances(tmp_path / "a.parquet") == [instance_from_row(v5_row, where="")]


def test_a_file_that_is_not_parquet_is_a_data_error(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="not a readable parquet file"):
        load_instances(tmp_path / "a.parquet")


def _twice(row: str) -> str:
    return f"{row}\n{row}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_twice, "line 2: instance o__r-1 was already given at .*line 1"),
        (lambda row: f"{row}\n{row[:50]}", "line 2: not valid JSON"),
        (lambda row: f"{row}\n[1]\n", "line 2: expected a JSON object, found list"),
        (lambda row: "\n", "expected at least one instance"),
    ],
)
def test_a_bad_file_names_the_line(tmp_path: Path, v5_row: Row, text: Callable[[str], str], words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text(json.dumps(v5_row)))
    with pytest.raises(DataError, match=words):
        load_instances(path)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_instances(tmp_path / "none.jsonl")


def test_bytes_that_are_not_text_are_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe[")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe[\n")
    for name in ("a.json", "a.jsonl"):
        with pytest.raises(DataError, match="cannot be read"):
            load_instances(tmp_path / name)


def test_real_source_distribution_rows(shared_data: Path) -> None:
    instances = load_instances(shared_data / "pypi_swe" / "instances.jsonl")
    assert len(instances) == 59
    assert len({instance.environment.image for instance in instances}) == 59
    assert len({instance.tests.restore_image for instance in instances}) == 5
    assert {instance.tests.restore_paths for instance in instances} == {("tests",)}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("verified_test", 500),
        ("lite_test", 300),
        ("lite_dev", 23),
        ("full_dev", 225),
        ("multilingual_test", 300),
        ("multimodal_dev", 102),
    ],
)
def test_real_v5_rows(shared_data: Path, name: str, count: int) -> None:
    pytest.importorskip("pyarrow")
    instances = load_instances(shared_data / "swebench" / f"{name}.parquet")
    assert len(instances) == count
    assert all(instance.tests.script.startswith("#!/bin/bash") for instance in instances)
