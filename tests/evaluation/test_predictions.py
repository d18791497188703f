"""Predictions on disk: every published shape, every way to be malformed, and kills in the middle of a line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.errors import DataError
from srl_swe.evaluation.predictions import (
    append_prediction,
    check_known,
    read_predictions,
    resume_predictions,
)
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests, Prediction

ROW = {"instance_id": "a__b-1", "model_name_or_path": "m", "model_patch": "diff --git a/x b/x\n"}
EXPECTED = Prediction(instance_id="a__b-1", model_name_or_path="m", model_patch="diff --git a/x b/x\n")


def make_instance(instance_id: str) -> Instance:
    return Instance(
        instance_id=instance_id,
        repo="a/b",
        base_commit="",
        problem_statement="It is broken.",
        environment=InstanceEnvironment(image="none"),
        tests=InstanceTests(script="true", parser="parse_log_pytest", fail_to_pass=("t",), pass_to_pass=()),
        gold_patch="",
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", json.dumps(ROW) + "\n\n"),
        ("p.json", json.dumps([ROW])),
        ("p.json", json.dumps({"a__b-1": ROW})),
        ("p.json", json.dumps({"a__b-1": {key: value for key, value in ROW.items() if key != "instance_id"}})),
        ("p.jsonl", json.dumps(ROW | {"model_patch": "diff --git a/x b/x", "extra": 1})),
        ("p.jsonl", json.dumps(ROW) + "\n" + json.dumps(ROW)),
    ],
)
def test_reads_every_published_shape(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_predictions(tmp_path / name) == (EXPECTED,)


@pytest.mark.parametrize("patch", [None, "", "  \n"])
def test_null_and_blank_patches_are_empty(tmp_path: Path, patch: str | None) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(ROW | {"model_patch": patch}))
    assert read_predictions(path)[0].model_patch == ""


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.jsonl", json.dumps(ROW) + '\n{"instance_id": "c", "mod', "p.jsonl, line 2: is not valid JSON"),
        ("p.jsonl", json.dumps([1]), "p.jsonl, line 1: expected an object"),
        ("p.json", "[1", "p.json: is not valid JSON"),
        ("p.json", "3", "expected a list of predictions or an object by instance id, found int"),
        ("p.json", json.dumps({"other": ROW}), "key 'other': holds the prediction of 'a__b-1'"),
        ("p.json", "[]", "holds no predictions"),
        ("p.jsonl", json.dumps({"instance_id": "c", "model_patch": ""}), r"\(c\): model_name_or_path: Field required"),
        ("p.jsonl", json.dumps(ROW | {"instance_id": 3}), "instance_id: Input should be a valid string"),
        ("p.jsonl", json.dumps(ROW | {"model_patch": ["x"]}), "model_patch: Input should be a valid string"),
        (
            "p.jsonl",
            json.dumps(ROW) + "\n" + json.dumps(ROW | {"model_patch": "other\n"}),
            "line 2: a second, different prediction for instance 'a__b-1'",
        ),
    ],
)
def test_malformed_files_name_the_place(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=expected):
        read_predictions(tmp_path / name)


def test_missing_and_binary_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "absent.jsonl")
    (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "p.jsonl")


def test_unknown_instances_are_listed() -> None:
    strangers = [Prediction(instance_id=f"x-{n}", model_name_or_path="m", model_patch="") for n in range(12)]
    with pytest.raises(DataError, match=r"12 of 13 predictions .* x-0, x-1, .* x-9, …"):
        check_known([EXPECTED, *strangers], [make_instance("a__b-1")])
    check_known([EXPECTED], [make_instance("a__b-1")])


@given(text=st.text(), cut=st.integers(min_value=0))
def test_a_kill_at_any_byte_loses_only_the_last_line(
    tmp_path_factory: pytest.TempPathFactory, text: str, cut: int
) -> None:
    path = tmp_path_factory.mktemp("kill") / "predictions.jsonl"
    second = Prediction(instance_id="second", model_name_or_path="m", model_patch=f"+{text}\n")
    append_prediction(path, EXPECTED)
    first_size = path.stat().st_size
    append_prediction(path, second)
    content = path.read_bytes()
    size = first_size + cut % (len(content) - first_size + 1)
    path.write_bytes(content[:size])
    # All of the line but its end is a complete record.
    complete = size >= len(content) - 1
    assert resume_predictions(path) == ((EXPECTED, second) if complete else (EXPECTED,))
    if not complete:
        append_prediction(path, second)
    assert read_predictions(path) == (EXPECTED, second)
    assert path.read_bytes() == content


def test_bytes_that_are_no_utf8_survive(tmp_path: Path) -> None:
    patch = b"--- a/x\n+++ b/x\n+caf\xe9\n".decode("utf-8", "surrogateescape")
    prediction = Prediction(instance_id="i", model_name_or_path="m", model_patch=patch)
    append_prediction(tmp_path / "p.jsonl", prediction)
    assert read_predictions(tmp_path / "p.jsonl") == (prediction,)


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert resume_predictions(tmp_path / "p.jsonl") == ()
    (tmp_path / "p.jsonl").write_text('{"instance_id": "a')
    assert resume_predictions(tmp_path / "p.jsonl") == ()
