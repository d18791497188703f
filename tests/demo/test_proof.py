"""What proves a bug: the outcomes before and after, and the text that is made of them."""

import pytest

from srl_swe.demo.instances import problem_statement
from srl_swe.demo.proof import Proven, Summary, compare, read_summary

LOG = """\
E   AssertionError: assert 1 == 2
FAILED this line is output, no summary
=========================== short test summary info ============================
PASSED tests/test_a.py::test_one
PASSED tests/test_a.py::test_ids[a-1]
PASSED tests/test_a.py::test_ids[a b]
FAILED tests/test_a.py::TestX::test_two - assert 1 == 2
ERROR tests/test_a.py::test_three - OSError: no
XFAIL tests/test_a.py::test_four - later
========================= 1 failed, 3 passed in 0.11s ==========================
"""


def summary(**outcomes: str) -> Summary:
    return Summary(outcomes=outcomes, failure_lines={}, duration_s=0.1)


def test_the_short_summary_is_read_and_ids_with_blanks_are_left_out() -> None:
    found = read_summary(LOG, 1.234)
    assert found == Summary(
        outcomes={
            "tests/test_a.py::test_one": "PASSED",
            "tests/test_a.py::test_ids[a-1]": "PASSED",
            "tests/test_a.py::TestX::test_two": "FAILED",
            "tests/test_a.py::test_three": "ERROR",
            "tests/test_a.py::test_four": "XFAIL",
        },
        failure_lines={
            "tests/test_a.py::TestX::test_two": "FAILED tests/test_a.py::TestX::test_two - assert 1 == 2",
            "tests/test_a.py::test_three": "ERROR tests/test_a.py::test_three - OSError: no",
        },
        duration_s=1.23,
    )


def test_a_run_that_was_killed_has_no_summary() -> None:
    assert read_summary("collected 3 items\ntests/test_a.py ..Killed\n", 10.0) is None


CLEAN = (
    summary(**dict.fromkeys("abcdefg", "PASSED"), flaky="PASSED", bad="FAILED"),
    summary(**dict.fromkeys("abcdefg", "PASSED"), flaky="FAILED", bad="FAILED"),
)


def test_a_bug_is_proven_by_tests_that_fail_by_it() -> None:
    broken = summary(**dict.fromkeys("abcde", "PASSED"), f="FAILED", g="FAILED", flaky="FAILED", bad="FAILED")
    proven = compare(CLEAN, broken)
    assert isinstance(proven, Proven)
    assert proven.fail_to_pass == ("f", "g")
    assert proven.pass_to_pass == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (None, "time limit or crash"),
        (summary(**dict.fromkeys("abcdefg", "PASSED")), "no test fails"),
        (summary(**dict.fromkeys("abcdef", "PASSED")), "tests disappear"),
        (summary(**dict.fromkeys("abcdefg", "FAILED")), "too many tests fail"),
        (summary(**dict.fromkeys("abcd", "PASSED"), e="FAILED", f="FAILED", g="FAILED"), "too few tests pass"),
    ],
)
def test_other_candidates_are_dropped_for_a_reason(broken: Summary | None, reason: str) -> None:
    assert compare(CLEAN, broken) == reason


def test_the_problem_statement_names_tests_and_errors() -> None:
    tests = ["t.py::test_a[x::y]", "t.py::TestB::test_b", "t.py::test_c", "t.py::test_d"]
    lines = {test: f"FAILED {test} - assert 0" for test in tests}
    assert problem_statement("pkg", tests, lines) == (
        "Failing tests in pkg: test_a, test_b, test_c\n"
        "\n"
        "FAILED t.py::test_a[x::y] - assert 0\n"
        "FAILED t.py::TestB::test_b - assert 0\n"
        "FAILED t.py::test_c - assert 0\n"
        "and 1 more\n"
        "\n"
        "The tests are right and the code is wrong. Please fix the code."
    )
