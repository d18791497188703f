"""The page over several samples: its figures, its links, hostile ids as text."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.cli.eval import run as run_eval
from srl_swe.errors import DataError
from srl_swe.evaluation.report_pages import page_name
from srl_swe.evaluation.samples import SAMPLES_FILE, read_samples_record, sample_lines
from srl_swe.evaluation.samples_page import make_samples_page
from srl_swe.types import Instance, Verdict
from tests.evaluation.test_report import make_instance
from tests.evaluation.test_report_pages import evaluate_here
from tests.strict_page import HOSTILE, checked, text_of

pytest.importorskip("jinja2", reason="pages need the extra [data]")
pytest.importorskip("matplotlib", reason="pages need the extra [data]")
pytest.importorskip("scipy", reason="intervals need the extra [eval]")

INSTANCES = tuple(replace(make_instance(name), repo="a/b") for name in ("always", "once", "never", HOSTILE))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Three samples of four instances, and samples.json."""
    for number in range(1, 4):
        resolved = {"always"} | ({"once"} if number == 2 else set())

        def judge(instance: Instance, patch: str, say: object, resolved: set[str] = resolved) -> Verdict:
            name = instance.instance_id
            return Verdict(
                instance_id=name,
                status="resolved" if name in resolved else "unresolved",
                reason="" if name in resolved else "tests",
            )

        evaluate_here(tmp_path / f"sample-{number}", INSTANCES, f"m {HOSTILE}", judge)
    return tmp_path


def lines(output: Path) -> list[str]:
    return list(sample_lines([_NO_INVALID] * 3, output))  # type: ignore[list-item]


class _NoInvalid:
    num_invalid = 0


_NO_INVALID = _NoInvalid()


def test_the_page_says_what_samples_json_says_and_leads_to_every_sample(output: Path) -> None:
    assert lines(output)[0].startswith("pass@1: 33.3 % (95 % ")
    record = read_samples_record(output)
    # Of three samples: all, one, none, none. pass@1 = (1 + 1/3) / 4, pass@2 = (1 + 2/3) / 4, pass@3 = 2 / 4.
    assert record.pass_at_k == {1: pytest.approx(1 / 3), 2: pytest.approx(5 / 12), 3: pytest.approx(1 / 2)}
    low, high = record.intervals[1] or (0, 0)
    assert 0 <= low < 1 / 3 < high <= 1
    assert record.instances["once"] == ("unresolved", "resolved", "unresolved")
    page = make_samples_page(output).read_text("utf-8")
    links = [f"sample-{number}/report.html" for number in (1, 2, 3)]
    links += [f"sample-{n}/pages/{page_name(one.instance_id)}" for n in (1, 2, 3) for one in INSTANCES]
    text = text_of(page, links)
    for words in (
        "3 samples of each of 4 instances of verified",
        "pass@3 50.0 %",
        "always 3 / 3",
        "once 1 / 3",
        "never 0 / 3",
    ):
        assert words in text, words
    assert all(f'href="{link}"' in page for link in links)
    assert "<script" not in page
    checked(page, links)


def test_the_command_writes_all_pages_again(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(output)
    assert run_eval(["report", str(output)]) == 0
    assert (output / "report.html").is_file()
    for number in (1, 2, 3):
        assert (output / f"sample-{number}" / "report.html").is_file()
        assert (output / f"sample-{number}" / "pages" / page_name("once")).is_file()


def test_outcomes_that_do_not_vary_have_no_interval(tmp_path: Path) -> None:
    def judge(instance: Instance, patch: str, say: object) -> Verdict:
        return Verdict(instance_id=instance.instance_id, status="resolved")

    for number in (1, 2, 3):
        evaluate_here(tmp_path / f"sample-{number}", INSTANCES, "m", judge)
    assert lines(tmp_path) == ["pass@1: 100.0 %", "pass@2: 100.0 %", "pass@3: 100.0 %"]
    assert make_samples_page(tmp_path).is_file()


def test_records_that_do_not_fit(output: Path) -> None:
    evaluate_here(output / "sample-3", INSTANCES[:2], "m")
    with pytest.raises(DataError, match="is not in every sample's evaluation"):
        lines(output)
    with pytest.raises(DataError, match=r"no samples\.json"):
        make_samples_page(output)
    old = {"schema_version": 1, "num_samples": 2, "pass_at_k": {"1": 0.5}}
    (output / SAMPLES_FILE).write_text(json.dumps(old))
    with pytest.raises(DataError, match=r"(?s)of an older version.*run the same evaluation once more"):
        make_samples_page(output)
    bad = {**old, "intervals": {"1": None}, "folders": ["../x"], "instances": {}}
    (output / SAMPLES_FILE).write_text(json.dumps(bad))
    with pytest.raises(DataError, match=r"'\.\./x' leads out of the folder"):
        make_samples_page(output)
