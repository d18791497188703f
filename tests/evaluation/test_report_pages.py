"""The report's pages: their figures, their form, their bounds, and hostile text in every place where there is text."""

import io
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from srl_swe.cli.eval import run as run_eval
from srl_swe.errors import ContainerError, DataError, MissingExtraError
from srl_swe.evaluation.episodes import Episode, write_episode
from srl_swe.evaluation.figures import STAGES, make_figures, read_episode, stage_of
from srl_swe.evaluation.places import Judge
from srl_swe.evaluation.record import InstanceOutcome, read_record
from srl_swe.evaluation.report_pages import make_pages, page_name, write_pages
from srl_swe.evaluation.scheduler import EvaluationConfig
from srl_swe.prompts import answer_malformed
from srl_swe.types import Instance, Prediction, Step, Verdict, VerdictStatus
from tests.evaluation.judged import evaluate_with
from tests.evaluation.test_report import make_instance
from tests.strict_page import HOSTILE, checked, text_of

INSTANCES = tuple(
    replace(make_instance(name), repo=repo, difficulty=difficulty)
    for name, repo, difficulty in (
        ("good", "a/b", "<15 min fix"),
        ("bad", "a/b", "1-4 hours"),
        ("empty", "a/b", ""),
        ("unapplied", "c/d", "1-4 hours"),
        ("broken", "c/d", "1-4 hours"),
        ("slow", "c/d", "1-4 hours"),
        ("absent", "c/d", "1-4 hours"),
    )
)


def judge(instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
    name = instance.instance_id
    if name == "broken":
        raise ContainerError("no room")
    reason = {"bad": "tests", "unapplied": "patch does not apply", "slow": "timeout"}.get(name, "")
    return Verdict(
        instance_id=name,
        status="unresolved" if reason else "resolved",
        reason=reason,
        test_status={"test_a": "FAILED" if reason else "PASSED"},
        log=f"log of {name}",
        duration_s=2.0,
    )


def evaluate_here(
    folder: Path,
    instances: tuple[Instance, ...] = INSTANCES,
    made_by: str = "m",
    judge_by: Judge = judge,
    **options: object,
) -> None:
    predictions = [
        Prediction(
            instance_id=instance.instance_id,
            model_name_or_path=made_by,
            model_patch="" if instance.instance_id == "empty" else f"+diff of {made_by}\n",
        )
        for instance in instances
        if instance.instance_id != "absent"
    ]
    evaluate_with(
        instances,
        predictions,
        EvaluationConfig(output=folder, **{"split": "verified", **options}),  # type: ignore[arg-type]
        judge=judge_by,
        check_alive=lambda: None,
        stop_running=lambda: None,
        console=Console(file=io.StringIO()),
    )


def act(folder: Path, instance: Instance, thoughts: tuple[str, ...], *, text: str = "x") -> None:
    episode = Episode(instance=instance)
    for thought in thoughts:
        episode.add_step(thought, Step(thought=thought, action=f"echo {text}", observation=f"saw {text}", exit_code=0))
    episode.add_malformed(f"no form {text}", answer_malformed("no block", cut_off=False))
    episode.num_prompt_tokens, episode.num_completion_tokens = 500, 70
    result = episode.finish(model="m", patch=f"diff {text}\n", exit_status="submitted")
    prompt = [{"role": "system", "content": "Be good."}, {"role": "user", "content": f"Fix {text}"}]
    write_episode(folder, result, prompt=prompt, config={})


def links_of(instances: tuple[Instance, ...]) -> list[str]:
    return [f"pages/{page_name(instance.instance_id)}" for instance in instances]


def test_the_report_says_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_here(tmp_path)
    act(tmp_path, INSTANCES[0], ("abc", "a longer thought"))
    assert run_eval(["report", str(tmp_path)]) == 0
    assert "report.html" in capsys.readouterr().out
    text = text_of((tmp_path / "report.html").read_text("utf-8"), links_of(INSTANCES))
    # 1 of 7: Wilson's interval by its formula.
    assert "resolve rate 14.3 % 95 % Wilson interval 2.6\N{EN DASH}51.3 resolved, of all asked for 1 / 7" in text
    assert "a/b 3 1 33.3 %" in text
    assert "c/d 4 0 0.0 %" in text
    assert "1-4 hours 5 0 0.0 %" in text
    assert "<15 min fix 1 1 100.0 %" in text
    stages = ("resolved", "not predicted", "no patch", "does not apply", "tests fail", "tests do not end", "invalid")
    for stage in stages:
        assert f"{stage} 1 " in text
    assert "invalid: ContainerError: no room 1" in text
    assert "Episodes ended by: submitted 1." in text
    assert "prompt tokens of an episode 1 500" in text
    assert "characters of a thought 2 9.5 9.5" in text
    page = text_of((tmp_path / "pages" / "good.html").read_text("utf-8"), ["../report.html"])
    for words in ("log of good", "diff of m", "abc", "echo x", "saw x", "Malformed answer", "no form x", "500 / 70"):
        assert words in page
    assert "tests that had to start passing" in page


@pytest.mark.parametrize(
    ("reason", "stage"),
    [
        ("tests", "tests fail"),
        ("", "tests fail"),
        ("timeout", "tests do not end"),
        ("out of memory", "tests do not end"),
        ("tests ended the evaluation script, exit code 137", "tests do not end"),
        ("patch does not apply", "does not apply"),
        ("empty patch", "no patch"),
        ("never heard of", "another reason"),
    ],
)
def test_stages_of_unresolved_instances(reason: str, stage: str) -> None:
    outcome = InstanceOutcome(instance_id="i", repo="r", row="x", outcome="unresolved", reason=reason)
    assert stage_of(outcome) == stage
    assert stage in STAGES


def test_hostile_text_is_text_everywhere(tmp_path: Path) -> None:
    instance = replace(make_instance(HOSTILE), repo=HOSTILE, difficulty=HOSTILE)

    num_calls = itertools.count()

    def hostile(instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        again = next(num_calls) > 0  # flaky: its unstable tests are shown too
        status: VerdictStatus = "resolved" if again else "unresolved"
        outcomes = {HOSTILE: HOSTILE + str(again)}
        told = {"restored": (HOSTILE,), "signs": (HOSTILE,), "left_out": (HOSTILE,)}
        return Verdict(instance_id=HOSTILE, status=status, reason=HOSTILE, log=HOSTILE, test_status=outcomes, **told)

    evaluate_here(
        tmp_path, (instance,), made_by=HOSTILE, judge_by=hostile, confirm=2, split=HOSTILE, choice=f"--repo {HOSTILE}"
    )
    assert read_record(tmp_path).instances[0].unstable_tests == (HOSTILE,)
    act(tmp_path, instance, (HOSTILE,), text=HOSTILE)
    make_pages(tmp_path)
    name = page_name(HOSTILE)
    for page, links in ((tmp_path / "report.html", [f"pages/{name}"]), (tmp_path / "pages" / name, ["../report.html"])):
        text = " ".join(checked(page.read_text("utf-8"), links).text)
        assert "<script>alert(1)</script>" in text
        assert "{{ 7 * 7 }}" in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    for title in ("Why the log is not believed", "put back or deleted", "Lines of the script that were left out"):
        assert title in (tmp_path / "pages" / name).read_text("utf-8")


def test_a_patch_shows_what_it_adds_and_removes(tmp_path: Path) -> None:
    instance = make_instance("good")
    patch = "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n same\n-old <b>\n+new &amp;\n"
    evaluate_with(
        [instance],
        [Prediction(instance_id="good", model_name_or_path="m", model_patch=patch)],
        EvaluationConfig(output=tmp_path),
        judge=judge,
        check_alive=lambda: None,
        stop_running=lambda: None,
        console=Console(file=io.StringIO()),
    )
    make_pages(tmp_path)
    page = (tmp_path / "pages" / "good.html").read_text("utf-8")
    checked(page, ["../report.html"])
    shown = page.split('<pre class="patch">')[1].split("</pre>")[0]
    assert shown == (
        '--- a/x\n+++ b/x\n<span class="place">@@ -1,2 +1,2 @@</span>\n same\n'
        '<span class="removed">-old &lt;b&gt;</span>\n<span class="added">+new &amp;amp;</span>\n'
    )


def test_no_browser_would_load_anything(tmp_path: Path) -> None:
    evaluate_here(tmp_path)
    make_pages(tmp_path)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) == 8
    assert all(f'http-equiv="Content-Security-Policy" content="{policy}"' in page.read_text() for page in pages)


def test_pages_are_bounded(tmp_path: Path) -> None:
    def loud(instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        tests = {f"test_{number}": "PASSED" for number in range(5000)}
        return Verdict(
            instance_id="good", status="resolved", log="x" * 10**6, test_status={**tests, "test_z": "FAILED"}
        )

    evaluate_here(tmp_path, INSTANCES[:1], judge_by=loud)
    act(tmp_path, INSTANCES[0], tuple(f"thought {number}" for number in range(2000)), text="y" * 3000)
    make_pages(tmp_path)
    page = (tmp_path / "pages" / "good.html").read_text("utf-8")
    assert len(page) < 2_000_000
    text = text_of(page, ["../report.html"])
    assert "5,001 outcomes, 500 of them shown, those that did not pass first FAILED test_z" in text
    # Two prompts, 2000 steps of two messages, a malformed answer of two, and the end; 200 are shown.
    assert "3,805 messages in the middle are left out here" in text
    assert "thought 1999" in text


def test_what_does_not_change_is_not_written_again(tmp_path: Path) -> None:
    evaluate_here(tmp_path)
    make_pages(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.html")}
    make_pages(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.html")} == before
    assert len(before) == 8


def test_damaged_files_are_told_and_alone(tmp_path: Path) -> None:
    evaluate_here(tmp_path)
    shutil.rmtree(tmp_path / "results" / "good")
    (tmp_path / "trajectories").mkdir()
    for name, content in (("good", "{"), ("bad", "[]"), ("slow", json.dumps({"info": {}, "messages": [1]}))):
        (tmp_path / "trajectories" / f"{name}.traj.json").write_text(content)
        assert read_episode(tmp_path, name) is None
    make_pages(tmp_path)
    text = text_of((tmp_path / "pages" / "good.html").read_text("utf-8"), ["../report.html"])
    assert "The stored verdict cannot be read: FileNotFoundError" in text
    assert make_figures(read_record(tmp_path), {}).endings == {}


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no evaluation\.json"):
        run_eval(["report", str(tmp_path)])


def test_an_evaluation_goes_without_its_page_where_jinja2_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_here(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    shown = io.StringIO()
    assert write_pages(tmp_path, console=Console(file=shown, width=200)) is None
    assert "srl-swe[data]" in shown.getvalue()
    with pytest.raises(MissingExtraError):
        make_pages(tmp_path)
