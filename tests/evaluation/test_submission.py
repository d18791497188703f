"""Submission kits: complete where the evaluation is, and every damage is told."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from srl_swe.cli.eval import run as run_eval
from srl_swe.errors import ConfigError, ContainerError, DataError
from srl_swe.evaluation.predictions import append_prediction
from srl_swe.evaluation.record import read_record, write_record
from srl_swe.evaluation.scheduler import EvaluationConfig
from srl_swe.evaluation.submission import BOARDS, CHECKLIST, TO_FILL_IN, About, Board, write_kit
from srl_swe.evaluation.submission_checks import check_kit, reminders
from srl_swe.types import Instance, Prediction, Verdict
from tests.evaluation.judged import evaluate_with
from tests.evaluation.test_report import make_instance

yaml = pytest.importorskip("yaml")

NAMES = ("good__a-1", "bad__a-1", "unapplied__a-1", "empty__a-1")
INSTANCES = tuple(
    replace(
        make_instance(name),
        repo="o/a" if number < 2 else "o/b",
        tests=replace(make_instance(name).tests, script="pytest\n", fail_to_pass=("t1",), pass_to_pass=("t2", "t3")),
    )
    for number, name in enumerate(NAMES)
)
ABOUT = About(
    name="Entry: one",
    model=("some-model",),
    org=("somewhere",),
    authors=("A. Author",),
    site="https://example.org",
    report="https://example.org/report",
    os_model=True,
    os_system=False,
)
KIT = "20260131_some-agent"


@pytest.fixture(autouse=True)
def small_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaderboard of four instances."""
    monkeypatch.setitem(BOARDS, "lite", Board(split="lite", num_instances=len(NAMES), sb_cli="swe-bench_lite test"))


def judge(instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
    name = instance.instance_id
    if name.startswith("broken"):
        raise ContainerError("no room")
    if name.startswith("unapplied"):
        return Verdict(instance_id=name, status="unresolved", reason="patch does not apply", log="does not apply")
    good = name.startswith("good")
    tests = {"t1": "PASSED" if good else "FAILED", "t2": "SKIPPED"} | ({"t3": "XFAIL"} if good else {})
    return Verdict(
        instance_id=name,
        status="resolved" if good else "unresolved",
        reason="" if good else "tests",
        test_status=tests,
        log=f"log of {name}\n",
    )


def evaluate_here(folder: Path, instances: tuple[Instance, ...] = INSTANCES, traces: bool = True) -> None:
    for instance in instances:
        name = instance.instance_id
        patch = "" if name.startswith("empty") else f"diff of {name} \udce9\n"
        prediction = Prediction(instance_id=name, model_name_or_path="m", model_patch=patch)
        append_prediction(folder / "predictions.jsonl", prediction)
        if traces:
            (folder / "trajectories").mkdir(exist_ok=True)
            (folder / "trajectories" / f"{name}.traj.json").write_text("{}")
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    evaluate_with(
        instances,
        [Prediction(**row) for row in predictions],
        EvaluationConfig(output=folder, split="lite"),
        judge=judge,
        check_alive=lambda: None,
        stop_running=lambda: None,
        console=Console(file=io.StringIO()),
    )


def make_kit(tmp_path: Path, about: About = ABOUT) -> Path:
    evaluate_here(tmp_path / "eval")
    kit = tmp_path / KIT
    write_kit(tmp_path / "eval", kit, INSTANCES, board="lite", about=about)
    return kit


def confirm(kit: Path) -> None:
    """Do what the submitter does with README.md."""
    text = (kit / "README.md").read_text("utf-8")
    line = next(line for line in text.splitlines() if TO_FILL_IN in line)
    (kit / "README.md").write_text(text.replace("[ ]", "[x]").replace(line, "An agent, described."), "utf-8")


def test_a_complete_kit(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    confirm(kit)
    assert check_kit(kit, "lite") == ()
    # sb-cli reads every line as JSON, takes three keys, and wants one model and no id twice.
    rows = [json.loads(line) for line in (kit / "all_preds.jsonl").read_text().splitlines()]
    assert [sorted(row) for row in rows] == [["instance_id", "model_name_or_path", "model_patch"]] * 4
    assert [row["instance_id"] for row in rows] == list(NAMES)
    assert {row["model_name_or_path"] for row in rows} == {"m"}
    assert [row["model_patch"] for row in rows] == [f"diff of {name} \udce9\n" for name in NAMES[:3]] + [""]
    assert sorted(path.name for path in (kit / "logs").iterdir()) == sorted(NAMES[:3])
    assert sorted(path.name for path in (kit / "trajs").iterdir()) == sorted(f"{name}.traj.json" for name in NAMES)
    assert (kit / "logs" / NAMES[0] / "test_output.txt").read_text() == f"log of {NAMES[0]}\n"
    assert (kit / "logs" / NAMES[0] / "eval.sh").read_text() == "pytest\n"
    results = json.loads((kit / "results" / "results.json").read_text())
    assert results == {"no_generation": [NAMES[3]], "no_logs": [], "resolved": [NAMES[0]]}
    by_repo = json.loads((kit / "results" / "resolved_by_repo.json").read_text())
    assert by_repo == {"o/a": {"resolved": 1, "total": 2}, "o/b": {"resolved": 0, "total": 2}}
    readme = (kit / "README.md").read_text("utf-8")
    assert "Resolved 1 instances (25.0% of 4)" in readme
    assert "- o/a: 1/2 (50.00%)" in readme
    assert any("sb-cli submit swe-bench_lite test --predictions_path" in line for line in reminders(kit, "lite"))


def test_an_instances_report_is_the_official_one(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)

    def report(name: str) -> dict[str, Any]:
        return json.loads((kit / "logs" / name / "report.json").read_text())[name]  # type: ignore[no-any-return]

    assert report(NAMES[0]) == {
        "patch_is_None": False,
        "patch_exists": True,
        "patch_successfully_applied": True,
        "resolved": True,
        "infra_failure": False,
        "tests_status": {
            "FAIL_TO_PASS": {"success": ["t1"], "failure": []},
            "PASS_TO_PASS": {"success": ["t2", "t3"], "failure": []},
            "FAIL_TO_FAIL": {"success": [], "failure": []},
            "PASS_TO_FAIL": {"success": [], "failure": []},
        },
    }
    bad = report(NAMES[1])
    assert not bad["resolved"]
    assert bad["tests_status"]["FAIL_TO_PASS"] == {"success": [], "failure": ["t1"]}
    assert bad["tests_status"]["PASS_TO_PASS"] == {"success": ["t2"], "failure": ["t3"]}
    unapplied = report(NAMES[2])
    assert (unapplied["patch_successfully_applied"], unapplied["resolved"]) == (False, False)


def test_metadata_is_what_the_board_reads(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    assert yaml.safe_load((kit / "metadata.yaml").read_text("utf-8")) == {
        "assets": {
            "logs": f"s3://swe-bench-submissions/lite/{KIT}/logs",
            "trajs": f"s3://swe-bench-submissions/lite/{KIT}/trajs",
        },
        "info": {
            "name": "Entry: one",
            "authors": ["A. Author"],
            "report": "https://example.org/report",
            "site": "https://example.org",
        },
        "tags": {
            "checked": False,
            "model": ["some-model"],
            "org": ["somewhere"],
            "os_model": True,
            "os_system": False,
            "system": {"attempts": 1},
        },
    }


def test_what_is_to_be_filled_in_is_told_and_kept(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, About())
    problems = check_kit(kit, "lite")
    fields = ("name", "authors", "report", "site", "model", "org", "os_model", "os_system")
    for field in fields:
        assert any(problem.endswith(f".{field} is to be filled in") for problem in problems), field
    assert sum(problem.startswith("README.md: not confirmed") for problem in problems) == len(CHECKLIST)
    assert len(problems) == len(fields) + len(CHECKLIST) + 1
    confirm(kit)
    (kit / "metadata.yaml").write_text("info: {name: mine}\n")
    kept = write_kit(tmp_path / "eval", kit, INSTANCES, board="lite", about=ABOUT)
    assert kept == ("metadata.yaml", "README.md")
    assert (kit / "metadata.yaml").read_text() == "info: {name: mine}\n"


Damage = Callable[[Path], object]


def edit(name: str, old: str, new: str) -> Damage:
    def damage(kit: Path) -> None:
        text = (kit / name).read_text("utf-8", "surrogatepass")
        assert old in text
        (kit / name).write_text(text.replace(old, new, 1), "utf-8", "surrogatepass")

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda kit: (kit / "logs" / NAMES[0] / "test_output.txt").unlink(), "good__a-1: test_output.txt missing"),
        (edit(f"logs/{NAMES[1]}/patch.diff", "bad", "worse"), "patch.diff: is not the patch in all_preds"),
        (edit(f"logs/{NAMES[1]}/report.json", '"resolved": false', '"resolved": true'), "says resolved = True"),
        (edit(f"logs/{NAMES[1]}/report.json", "{", ""), "report.json: does not say whether it is resolved"),
        (
            lambda kit: (kit / "trajs" / f"{NAMES[3]}.traj.json").unlink(),
            r"1 instances \(empty__a-1\) have no reasoning",
        ),
        (lambda kit: shutil.rmtree(kit / "trajs"), "4 instances .* have no reasoning trace"),
        (edit("results/results.json", NAMES[0], NAMES[3]), r"\(empty__a-1\) resolved without a patch"),
        (edit("results/results.json", '"no_logs": []', '"no_logs": ["x"]'), "have no verdict"),
        (lambda kit: (kit / "results" / "results.json").unlink(), "results.json: cannot be read"),
        (edit("all_preds.jsonl", NAMES[0], NAMES[1]), "a second, different prediction"),
        (edit("all_preds.jsonl", '"m"', '"other"'), "predictions of 2 models"),
        (edit("all_preds.jsonl", NAMES[2], "new__a-1"), "new__a-1: eval.sh, patch.diff.* missing"),
        (lambda kit: (kit / "all_preds.jsonl").unlink(), "predictions cannot be read"),
        (edit("metadata.yaml", "checked: false", "checked: true"), "tags.checked must be false"),
        (edit("metadata.yaml", "attempts: 1", "attempts: 3"), "attempts is 3, expected '1' or '2\\+'"),
        (edit("metadata.yaml", "os_model: true", "os_model: maybe"), "os_model is 'maybe', expected true or false"),
        (edit("metadata.yaml", "site: https://", "site: "), "expected an address"),
        (edit("metadata.yaml", "tags:", "tags: ["), "metadata.yaml: cannot be read"),
        (lambda kit: (kit / "metadata.yaml").write_text("- a list\n"), "info.name is to be filled in"),
        (edit("README.md", f"[x] {CHECKLIST[2]}", ""), "not confirmed with .x.: Does not use the `hints`"),
        (lambda kit: (kit / "README.md").unlink(), "README.md: cannot be read"),
        (lambda kit: kit.rename(kit.parent / "20261301_agent"), "must be the date and a name"),
    ],
)
def test_every_damage_is_told(tmp_path: Path, damage: Damage, words: str) -> None:
    kit = make_kit(tmp_path)
    confirm(kit)
    damage(kit)
    (kit,) = (path for path in tmp_path.iterdir() if path.name != "eval")
    with pytest.raises(AssertionError, match=words):
        assert not check_kit(kit, "lite"), "\n".join(check_kit(kit, "lite"))


def test_a_part_of_the_board_is_no_submission(tmp_path: Path) -> None:
    evaluate_here(tmp_path / "eval", INSTANCES[:2])
    kit = tmp_path / KIT
    write_kit(tmp_path / "eval", kit, INSTANCES, board="lite", about=ABOUT)
    assert any("2 instances were asked for, lite has 4" in problem for problem in check_kit(kit, "lite"))


def test_a_failure_of_infrastructure_is_no_submission(tmp_path: Path) -> None:
    instances = (*INSTANCES[:3], replace(INSTANCES[3], instance_id="broken__a-1"))
    evaluate_here(tmp_path / "eval", instances)
    kit = tmp_path / KIT
    write_kit(tmp_path / "eval", kit, instances, board="lite", about=ABOUT)
    assert any("1 instances (broken__a-1) have no verdict" in problem for problem in check_kit(kit, "lite"))


def test_other_rows_are_refused(tmp_path: Path) -> None:
    evaluate_here(tmp_path / "eval")
    changed = (replace(INSTANCES[0], gold_patch="another"), *INSTANCES[1:])
    with pytest.raises(DataError, match="1 of 4 instances were judged by other tests"):
        write_kit(tmp_path / "eval", tmp_path / KIT, changed, board="lite", about=ABOUT)
    with pytest.raises(DataError, match="1 of 4 evaluated instances are not among the 3 rows"):
        write_kit(tmp_path / "eval", tmp_path / KIT, INSTANCES[1:], board="lite", about=ABOUT)
    assert not (tmp_path / KIT).exists()


def test_two_models_are_refused(tmp_path: Path) -> None:
    evaluate_here(tmp_path / "eval")
    record = read_record(tmp_path / "eval")
    assert record.models == ("m",)
    write_record(tmp_path / "eval", replace(record, models=("m", "n")))
    with pytest.raises(DataError, match=r"predictions of 2 models \(m, n\); a submission is of one"):
        write_kit(tmp_path / "eval", tmp_path / KIT, INSTANCES, board="lite", about=ABOUT)


def test_a_kit_overwrites_nothing_else(tmp_path: Path) -> None:
    evaluate_here(tmp_path / "eval")
    with pytest.raises(DataError, match="is the folder of an evaluation"):
        write_kit(tmp_path / "eval", tmp_path / "eval", INSTANCES, board="lite", about=ABOUT)
    (tmp_path / "photos" / "logs").mkdir(parents=True)
    with pytest.raises(DataError, match="holds other files"):
        write_kit(tmp_path / "eval", tmp_path / "photos", INSTANCES, board="lite", about=ABOUT)
    assert (tmp_path / "photos" / "logs").is_dir()
    assert (tmp_path / "eval" / "results" / NAMES[0]).is_dir()


def test_traces_from_elsewhere(tmp_path: Path) -> None:
    evaluate_here(tmp_path / "eval", traces=False)
    traces = tmp_path / "traces"
    (traces / NAMES[0]).mkdir(parents=True)
    (traces / NAMES[0] / "steps.md").write_text("thoughts")
    for name in (*NAMES[1:], "bad__a-12"):
        (traces / f"{name}.md").write_text("thoughts")
    kit = tmp_path / KIT
    write_kit(tmp_path / "eval", kit, INSTANCES, board="lite", about=ABOUT, trajectories=traces)
    confirm(kit)
    assert check_kit(kit, "lite") == ()
    assert sorted(path.name for path in (kit / "trajs").iterdir()) == sorted(
        [NAMES[0], *(f"{n}.md" for n in NAMES[1:])]
    )


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_here(tmp_path / "eval")
    kit = tmp_path / KIT
    with pytest.raises(DataError, match="no such file"):
        run_eval(["submit-kit", str(tmp_path / "eval"), "--out", str(kit), "--instances", str(tmp_path / "no.jsonl")])
    with pytest.raises(DataError, match="no such folder; `srl-swe eval submit-kit"):
        run_eval(["submit-kit", str(tmp_path / "eval"), "--out", str(kit), "--check-only"])
    write_kit(tmp_path / "eval", kit, INSTANCES, board="lite", about=ABOUT)
    assert run_eval(["submit-kit", str(tmp_path / "eval"), "--out", str(kit), "--check-only"]) == 1
    assert "5 things are wrong" in capsys.readouterr().out
    confirm(kit)
    assert run_eval(["submit-kit", str(tmp_path / "eval"), "--out", str(kit), "--check-only"]) == 0
    shown = capsys.readouterr().out
    assert "nothing is wrong" in shown
    assert "still yours: fork SWE-bench/experiments" in shown


def test_a_set_without_a_leaderboard(tmp_path: Path) -> None:
    evaluate_here(tmp_path / "eval")
    record = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    (tmp_path / "eval" / "evaluation.json").write_text(json.dumps(record | {"split": "instances.jsonl"}))
    with pytest.raises(ConfigError, match=r"evaluation of instances\.jsonl, which has no leaderboard; name the one"):
        run_eval(["submit-kit", str(tmp_path / "eval"), "--out", str(tmp_path / KIT)])
    with pytest.raises(ConfigError, match="name its file of rows with --instances"):
        run_eval(["submit-kit", str(tmp_path / "eval"), "--out", str(tmp_path / KIT), "--board", "lite"])
