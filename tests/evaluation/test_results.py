"""The verdict store: what is found again, what is not, and what survives damage."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.evaluation.results import VerdictStore, read_stored, verdict_key
from srl_swe.files import file_name
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests, Verdict

INSTANCE = Instance(
    instance_id="a__b-1",
    repo="a/b",
    base_commit="",
    problem_statement="It is broken.",
    environment=InstanceEnvironment(image="image:1"),
    tests=InstanceTests(script="pytest", parser="parse_log_pytest", fail_to_pass=("t1",), pass_to_pass=("t2",)),
    gold_patch="",
)
VERDICT = Verdict(
    instance_id="a__b-1",
    status="unresolved",
    reason="tests",
    test_status={"t1": "FAILED"},
    log="caf\udce9 \x1b[31mred\n",
    duration_s=1.5,
)


def test_round_trip(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    assert store.load(INSTANCE, "patch") is None
    store.save(INSTANCE, "patch", VERDICT)
    assert VerdictStore(tmp_path).load(INSTANCE, "patch") == replace(VERDICT, log="caf? \x1b[31mred\n")
    assert sorted(path.suffix for path in (tmp_path / "a__b-1").iterdir()) == [".json", ".log", ".patch"]


@pytest.mark.parametrize(
    "changed",
    [
        replace(INSTANCE, tests=replace(INSTANCE.tests, script="pytest -x")),
        replace(INSTANCE, tests=replace(INSTANCE.tests, fail_to_pass=("t1", "t2"))),
        replace(INSTANCE, environment=InstanceEnvironment(image="image:2")),
        replace(INSTANCE, gold_patch="it lets the patch touch other files"),
    ],
)
def test_another_judge_is_another_key(tmp_path: Path, changed: Instance) -> None:
    store = VerdictStore(tmp_path)
    store.save(INSTANCE, "patch", VERDICT)
    assert store.load(changed, "patch") is None
    assert store.load(INSTANCE, "another patch") is None
    assert store.load(replace(INSTANCE, problem_statement="told otherwise"), "patch") is not None


def test_an_image_that_has_changed_voids_the_verdict_and_one_that_is_gone_does_not(tmp_path: Path) -> None:
    images: list[str | None] = ["sha256:1"]
    store = VerdictStore(tmp_path, image_digest=lambda instance: images[0])
    store.save(INSTANCE, "patch", VERDICT)
    assert store.load(INSTANCE, "patch") is not None
    images[0] = None
    assert store.load(INSTANCE, "patch") is not None
    images[0] = "sha256:2"
    assert store.load(INSTANCE, "patch") is None
    # What was never run in an image does not depend on one.
    store.save(INSTANCE, "", VERDICT)
    images[0] = "sha256:3"
    assert store.load(INSTANCE, "") is not None


def test_another_harness_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = verdict_key(INSTANCE, "patch")
    monkeypatch.setattr("srl_swe.evaluation.results.harness_version", lambda: "grader 9, swebench 9")
    assert verdict_key(INSTANCE, "patch") != before


def test_verdicts_of_a_grader_that_leaves_installations_out_are_apart(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    quick = replace(INSTANCE, tests=replace(INSTANCE.tests, skip_reinstall=True))
    verdict = replace(VERDICT, left_out=("pip install -e .",))
    store.save(quick, "patch", verdict)
    assert store.load(INSTANCE, "patch") is None
    loaded = store.load(quick, "patch")
    assert loaded is not None
    assert loaded.left_out == verdict.left_out
    record = json.loads(store.path(quick, "patch").read_text())
    assert record["judged_by"]["harness"].endswith(", without reinstalling")
    assert record["left_out"] == ["pip install -e ."]


def test_what_is_stored_can_be_read_without_the_row(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.save(INSTANCE, "pa\udce9tch", VERDICT)
    verdict, patch = read_stored(store.path(INSTANCE, "pa\udce9tch"))
    assert (verdict.status, verdict.log, patch) == ("unresolved", "caf? \x1b[31mred\n", "pa\udce9tch")


def test_patch_and_judge_do_not_run_together() -> None:
    keys = {verdict_key(INSTANCE, patch) for patch in ("", "a", "b", "\udce9", "a\n")}
    assert len(keys) == 5
    assert all(len(key) == 16 for key in keys)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 2}', "\x00"])
def test_a_damaged_file_is_no_verdict(tmp_path: Path, damage: str) -> None:
    store = VerdictStore(tmp_path)
    store.save(INSTANCE, "patch", VERDICT)
    store.path(INSTANCE, "patch").write_text(damage)
    assert store.load(INSTANCE, "patch") is None


def test_a_missing_log_is_no_verdict(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.save(INSTANCE, "patch", VERDICT)
    store.path(INSTANCE, "patch").with_suffix(".log").unlink()
    assert store.load(INSTANCE, "patch") is None


@pytest.mark.parametrize("hostile", ["../../etc/passwd", "..", ".", "", "a/b", "a\0b", "-rf", "x" * 400, "\udce9"])
def test_hostile_ids_stay_in_the_folder(tmp_path: Path, hostile: str) -> None:
    name = file_name(hostile)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert len(name) < 200
    assert name.isascii()
    assert file_name(hostile + "x") != name
