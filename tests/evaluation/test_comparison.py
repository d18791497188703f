"""Paired comparisons: counted by hand, and refused where pairs are no pairs."""

from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.cli.eval import run as run_eval
from srl_swe.errors import DataError
from srl_swe.evaluation.comparison import compare
from srl_swe.evaluation.record import EvaluationRecord, InstanceOutcome, Outcome, read_record, write_record

OUTCOMES: dict[str, Outcome] = {
    "r": "resolved",
    "u": "unresolved",
    "i": "invalid",
    "n": "not predicted",
    "p": "pending",
}


def make_record(letters: str, *, model: str = "m", offset: int = 0, row: str = "row") -> EvaluationRecord:
    instances = tuple(
        InstanceOutcome(instance_id=f"i-{number}", repo="a/b", row=row, outcome=OUTCOMES[letter], reason="why")
        for number, letter in enumerate(letters, start=offset)
    )
    return EvaluationRecord(split="verified", model=model, harness="h", wall_s=1.0, instances=instances)


def test_a_comparison_counts_pairs() -> None:
    found = compare(make_record("rrruuunip"), make_record("rrurruriu"))
    # i-7 and i-8 have no verdict in one of them; of the seven pairs the second wins 3, 4 and 6, and loses 2.
    assert found.num_pairs == 7
    assert found.num_both == 2
    assert found.only_first == ("i-2",)
    assert found.only_second == ("i-3", "i-4", "i-6")
    assert [rate[0] for rate in found.rates] == pytest.approx([3 / 7, 5 / 7])
    assert found.difference == pytest.approx(2 / 7)
    assert found.difference_low is not None
    assert found.difference_high is not None
    assert found.difference_low < 2 / 7 < found.difference_high
    assert found.p_value == pytest.approx(2 * (1 + 4) / 16)
    assert found.reasons == dict.fromkeys(("i-2", "i-3", "i-4", "i-6"), "why")
    assert found.left_out == {
        "i-7": "invalid in the first (why); invalid in the second (why)",
        "i-8": "pending in the first (why)",
    }


def test_unmatched_instances_are_listed() -> None:
    found = compare(make_record("rrr"), make_record("rrr", offset=1))
    assert (found.unmatched_first, found.unmatched_second, found.num_pairs) == (("i-0",), ("i-3",), 2)
    assert found.difference_low is None


def test_different_tasks_are_refused() -> None:
    other = replace(make_record("rr", row="another"), split="lite")
    words = "2 of 2 instances in common are judged by different.*i-0, i-1.*first is of verified, the second of lite"
    with pytest.raises(DataError, match=words):
        compare(make_record("rr"), other)
    with pytest.raises(DataError, match="no instance in common: the first is of verified"):
        compare(make_record("rr"), make_record("rr", offset=5))
    with pytest.raises(DataError, match="none has a verdict in both"):
        compare(make_record("ii"), make_record("rr"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "one", make_record("rruu", model="[red]a\x1b"))
    write_record(tmp_path / "other", make_record("ruru", model="b"))
    assert run_eval(["compare", str(tmp_path / "one"), str(tmp_path / "other"), "--out", str(tmp_path / "c.json")]) == 0
    shown = capsys.readouterr().out
    assert "second minus first: +0.0 points" in shown
    assert "only the first resolves (1):\n  i-1 (the second: why)\n" in shown
    assert "only the second resolves (1):\n  i-2 (the first: why)\n" in shown
    assert "[red]a" in shown
    assert '"p_value": 1.0' in (tmp_path / "c.json").read_text()


def test_damaged_records(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no evaluation\.json; expected the output folder of `srl-swe eval`"):
        read_record(tmp_path)
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(DataError, match="not a record of an evaluation"):
        read_record(tmp_path)
    hostile = InstanceOutcome(instance_id="i", repo="r", row="x", outcome="resolved", verdict="../../etc/passwd")
    write_record(tmp_path, replace(make_record("r"), instances=(hostile,)))
    with pytest.raises(DataError, match="leads out of the folder"):
        read_record(tmp_path)
