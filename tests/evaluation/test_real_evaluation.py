"""`srl-swe eval` on real instances, end to end: gold and nothing, their pages, and the two compared."""

import json
from pathlib import Path

import pytest

from srl_swe.cli.eval import run as run_eval
from srl_swe.environments.engine import Engine
from srl_swe.evaluation.choice import Choice
from srl_swe.evaluation.splits import load_split
from srl_swe.types import Instance
from tests.strict_page import text_of

pytestmark = [pytest.mark.docker, pytest.mark.slow]

NAMES = (
    "marshmallow-code__apispec.8b421526.func_pm_remove_loop__pfp71nlz",
    "marshmallow-code__webargs.dbde72fe.pr_867",
)


def check_with_the_official_harness(folder: Path, instance: Instance) -> None:
    """swebench's own report of the log in a kit is the kit's report.json."""
    grading = pytest.importorskip("swebench.harness.grading", reason="swebench is not installed")
    spec = grading.TestSpec(
        image=instance.environment.image,
        eval_script_list=[],
        repo=instance.repo,
        version="",
        log_parser=instance.tests.parser,
        eval_type=instance.tests.eval_type,
        instance_id=instance.instance_id,
        FAIL_TO_PASS=list(instance.tests.fail_to_pass),
        PASS_TO_PASS=list(instance.tests.pass_to_pass),
    )
    patch = (folder / "patch.diff").read_text("utf-8")
    prediction = {"instance_id": instance.instance_id, "model_name_or_path": "gold", "model_patch": patch}
    official = grading.get_eval_report(spec, prediction, str(folder / "test_output.txt"), include_tests_status=True)
    assert json.loads((folder / "report.json").read_text("utf-8")) == official
    assert official[instance.instance_id]["resolved"]


def test_gold_and_nothing_on_real_instances(
    tmp_path: Path, shared_data: Path, tiny_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jinja2")
    asked = ["--instances", str(shared_data / "pypi_swe" / "instances.jsonl"), "--instance-ids", *NAMES]
    gold, empty = tmp_path / "gold", tmp_path / "empty"
    assert run_eval([*asked, "--gold", "--output", str(gold)]) == 0
    shown = capsys.readouterr().out
    assert "gold patches that do not pass here: 0 of 2" in shown
    assert json.loads((gold / "gold-failures.json").read_text())["num_sound"] == 2
    assert (gold / "gold-failures.txt").read_text() == ""
    assert run_eval([*asked, "--control", "empty", "--output", str(empty)]) == 0

    links = [f"pages/{name}.html" for name in NAMES]
    text = text_of((gold / "report.html").read_text("utf-8"), links)
    assert "resolve rate 100.0 % 95 % Wilson interval 34.2\N{EN DASH}100.0 resolved, of all asked for 2 / 2" in text
    assert f"Evaluated on instances.jsonl --instance-ids {' '.join(NAMES)} , folder gold" in text
    text = text_of((empty / "report.html").read_text("utf-8"), links)
    assert "no patch 2 the prediction is empty" in text
    for name in NAMES:
        page = text_of((gold / "pages" / f"{name}.html").read_text("utf-8"), ["../report.html"])
        assert "outcome resolved" in page
        assert "diff --git a/" in page
        assert "PASSED" in page
        assert "passed" in page.split("Log ")[1]  # pytest's own last line
        assert "There is none." in text_of((empty / "pages" / f"{name}.html").read_text("utf-8"), ["../report.html"])

    kit = tmp_path / "20260131_gold"
    rows = asked[:2]
    about = ["--board", "lite", "--name", "Gold", "--model", "people", "--org", "o", "--authors", "a"]
    about += ["--site", "https://example.org", "--report", "https://example.org/r", "--os-model", "True"]
    # Two instances are no leaderboard's, gold has no reasoning traces, README.md is to be filled in.
    assert run_eval(["submit-kit", str(gold), "--out", str(kit), *rows, *about, "--os-system", "True"]) == 1
    assert "7 things are wrong" in capsys.readouterr().out
    for instance in load_split(rows[1], Choice(instance_ids=NAMES)):
        check_with_the_official_harness(kit / "logs" / instance.instance_id, instance)

    capsys.readouterr()
    assert run_eval(["compare", str(empty), str(gold)]) == 0
    shown = capsys.readouterr().out
    assert "Resolve rate over 2 instances that both judged" in shown
    assert "second minus first: +100.0 points (no interval: the outcomes do not vary)" in shown
    assert "McNemar's exact test: p = 0.5, 2 instances changed, 0 resolved by both" in shown
    assert "only the second resolves (2):\n" in shown
    assert all(f"  {name} (the first: empty patch)\n" in shown for name in NAMES)
