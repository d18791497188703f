"""The page of a report: its numbers, its form, and that nothing in a set can break out of it."""

import tomllib
from pathlib import Path

import pytest

from srl_swe.cli.data import run
from srl_swe.curation.page import render_page
from srl_swe.curation.set_report import ReportOptions, make_report
from srl_swe.errors import DataError, MissingExtraError, ModelError
from srl_swe.pages.texts import visible
from srl_swe.trajectories.store import REPORT, write_steps
from srl_swe.types import CompiledTrajectory, Step, Trajectory
from tests.curation.report_sets import write_profile, write_replay, write_set
from tests.strict_page import HOSTILE, text_of
from tests.training.tiny import make_tokenizer


def test_the_page_says_what_is_in_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", drops={"swe_smith": {"duplicate": 12_345}}, paths=["a.jsonl"], seed=7)
    assert run(["report", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "swe_smith" in shown
    assert "report.html" in shown.replace("\n", "")
    text = text_of((folder / REPORT).read_text("utf-8"))
    assert "trajectories 3 step examples 7 instances, of 2 repositories 3" in text
    assert "swe_smith SWE-bench/SWE-smith-trajectories licence: MIT 2 5 1 1 0 50 %" in text
    assert "elsewhere not known 1 2 0 0 1 \N{EN DASH}" in text
    assert "train 2 5 71 % validation 1 2 29 %" in text
    assert "swe_smith duplicate trajectory 12,345 The same trajectory was read before." in text
    assert "all steps 2 0.18 0.90 0.59" in text
    assert "Scored on 2 of 2 step examples of validation" in text
    assert "Counted in characters" in text
    assert "Not replayed" in text
    assert "Not profiled" in text
    assert "seed of the split 7" in text
    assert "mean similarity to the expert's action (0 to 1)" in text, "plots keep their text"


def test_tokens_are_counted_where_a_tokenizer_is_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    make_tokenizer().save_pretrained(tmp_path / "tiny-model")
    page = tmp_path / "elsewhere" / "page.html"
    assert run(["report", str(folder), "--tokenizer", str(tmp_path / "tiny-model"), "--out", str(page)]) == 0
    assert not (folder / REPORT).exists()
    content = page.read_text("utf-8")
    assert "Counted with the tokenizer tiny-model ." in text_of(content)
    assert str(tmp_path) not in content, "the page does not tell where things lie"


def test_outcomes_of_replay_and_profile_are_shown(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    write_replay(folder)
    write_profile(folder)
    text = text_of(render_page(make_report(folder, ReportOptions())))
    assert "2 of 3 trajectories were run again in containers" in text
    assert "1 of them broke off" in text
    assert "exit code 1, not 0" in text
    assert "The model models/small answered the steps of train, 4 times each." in text
    assert "1 vary by similarity, 1 get equal rewards, 1 were skipped" in text
    assert "Not replayed" not in text


def test_an_empty_validation_part_is_said(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", validation=frozenset())
    text = text_of(render_page(make_report(folder, ReportOptions())))
    assert "Validation is empty: nothing is held out." in text
    assert "Scored on 7 of 7 step examples of train, because validation is empty" in text


def test_hostile_text_stays_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set <script>x<"
    step = Step(thought=HOSTILE, action=f"ls {HOSTILE}", observation=HOSTILE, exit_code=0)
    hostile = Trajectory(
        trajectory_id=HOSTILE,
        instance_id=HOSTILE,
        problem_statement=HOSTILE,
        steps=(step, step),
        patch=HOSTILE,
        source=HOSTILE,
        model=HOSTILE,
        resolved=None,
        exit_status=HOSTILE,
    )
    header = {"drops": {HOSTILE: {HOSTILE: 1}}, "paths": [HOSTILE], "seed": HOSTILE, "filter": {HOSTILE: HOSTILE}}
    write_steps([CompiledTrajectory(trajectory=hostile, targets=(0, 1))], folder, header=header)
    write_profile(folder, model=HOSTILE)
    assert run(["report", str(folder)]) == 0
    page = (folder / REPORT).read_text("utf-8")
    text = text_of(page)
    assert text.count("<script>alert(1)</script>\"' onload=x <img src=//e.org/x> {{ 7 * 7 }} </style>") >= 15
    # No template text was evaluated: wherever the hostile text stands, it stands whole.
    assert text.count("{{ 7 * 7 }}") == text.count("<script>alert(1)</script>")
    assert "\x1b" not in page + capsys.readouterr().out
    assert "\u202e" not in page


def test_sets_of_one_step_have_a_page(tmp_path: Path) -> None:
    step = Step(thought="", action="submit", observation="", exit_code=None)
    alone = Trajectory(
        trajectory_id="t",
        instance_id="i",
        problem_statement="p",
        steps=(step,),
        patch="",
        source="s",
        model="",
        resolved=None,
    )
    write_steps([CompiledTrajectory(trajectory=alone, targets=(0,))], tmp_path / "set", header={})
    text = text_of(render_page(make_report(tmp_path / "set", ReportOptions(num_examples=0))))
    assert "No step has an action before it that could be copied." in text
    assert "None was asked for." in text


def test_the_same_set_gives_the_same_page(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    pages = {render_page(make_report(folder, ReportOptions())) for _ in range(2)}
    assert len(pages) == 1


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no set of step examples here"):
        run(["report", str(tmp_path)])
    folder = write_set(tmp_path / "set")
    with pytest.raises(DataError, match="a folder is in the way"):
        run(["report", str(folder), "--out", str(tmp_path)])
    with pytest.raises(ModelError, match="cannot be loaded"):
        run(["report", str(folder), "--tokenizer", str(tmp_path / "nowhere")])


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"srl-swe\[data\]"):
        run(["report", str(write_set(tmp_path / "set"))])


def test_invisible_characters_are_shown() -> None:
    assert visible("a\tb\nc") == "a\tb\nc"
    assert visible("\x1b[31m\x00") == "\N{SYMBOL FOR ESCAPE}[31m\N{SYMBOL FOR NULL}"
    assert visible("a\u202eb\u200b\ud800") == "a\\u202eb\\u200b\\ud800"
    assert len(visible("x" * 10**6)) < 13_000


def test_the_template_is_shipped() -> None:
    root = Path(__file__).parents[2]
    with (root / "pyproject.toml").open("rb") as stream:
        patterns = tomllib.load(stream)["tool"]["setuptools"]["package-data"]["srl_swe"]
    shipped = {path for pattern in patterns for path in (root / "srl_swe").glob(pattern)}
    assert set((root / "srl_swe").rglob("*.jinja")) <= shipped
