"""What speaks against a log that says "resolved", worked out by hand."""

from dataclasses import replace

import pytest

pytest.importorskip("swebench", reason="grading needs the extra [eval]")

from srl_swe.environments.forgery import find_signs, unconfirmed_tests
from srl_swe.environments.official_rules import judge_log
from srl_swe.environments.outcome_channel import RunnerRecords
from srl_swe.types import CommandResult, Instance, InstanceEnvironment, InstanceTests

A, B, C = "t.py::test_a", "t.py::test_b", "t.py::test_c"
START, END = ": '>>>>> Start Test Output'", ": '>>>>> End Test Output'"


def make_instance(command: str = "pytest -rA t.py") -> Instance:
    return Instance(
        instance_id="i",
        repo="",
        base_commit="",
        problem_statement="",
        environment=InstanceEnvironment(image=""),
        tests=InstanceTests(
            script=f"{START}\n{command}\n{END}\n", parser="parse_log_pytest", fail_to_pass=(A,), pass_to_pass=(B,)
        ),
        gold_patch="",
    )


def log(*lines: str, after: str = ">>>>> Test Exit Code: 0") -> str:
    return "\n".join((START, *lines, END, after, ""))


TIME = "2026-01-02 03:04:05.678901234 +0000 77"
GOOD = log(f"PASSED {A}", f"PASSED {B}")
HONEST = RunnerRecords(
    began=True,
    loaded=True,
    outcomes=((A, "PASSED"), (B, "PASSED")),
    ended=True,
    runner_exit_code=0,
    script_exit_codes=(0,),
    before=("1 t.py",),
    after=("1 t.py",),
)


def signs_of(text: str, records: RunnerRecords, command: str = "pytest -rA t.py") -> tuple[str, ...]:
    instance = make_instance(command)
    result = CommandResult(output=text, exit_code=0, duration_s=1.0)
    return find_signs(instance, judge_log(instance, text).test_status, result, records)


def test_an_honest_run_has_no_sign() -> None:
    assert signs_of(GOOD, HONEST) == ()
    skipped = replace(HONEST, outcomes=((A, "PASSED"), (B, "SKIPPED"), (C, "ERROR")))
    assert signs_of(log(f"PASSED {A}", f"SKIPPED {B}"), skipped) == ()


@pytest.mark.parametrize(
    ("text", "records", "signs"),
    [
        (GOOD, replace(HONEST, signs=("own",)), ("own",)),
        (GOOD, replace(HONEST, began=False), ("the script did not begin its tests as it should",)),
        (GOOD, replace(HONEST, loaded=False), ("the test runner did not load the grader's plugin",)),
        (GOOD, replace(HONEST, ended=False, runner_exit_code=None), ("the test runner did not come to its end",)),
        (
            GOOD,
            replace(HONEST, outcomes=((A, "FAILED"), (B, "PASSED"))),
            (f"the test runner did not report what the log says of {A}",),
        ),
        (
            GOOD,
            replace(HONEST, outcomes=((A, "PASSED"),)),
            (f"the test runner did not report what the log says of {B}",),
        ),
        (
            GOOD,
            replace(HONEST, before=(f"{TIME} 11 /a b.py", "missing /c"), after=(f"{TIME} 12 /a b.py", f"{TIME} 1 /c")),
            ("a file was changed while the tests ran: /a b.py", "a file was changed while the tests ran: /c"),
        ),
        (
            GOOD,
            replace(HONEST, runner_exit_code=1),
            ("the tests ended with exit codes that contradict each other: [0, 1]",),
        ),
        (
            GOOD,
            replace(HONEST, script_exit_codes=(1,)),
            ("the tests ended with exit codes that contradict each other: [0, 1]",),
        ),
        (
            log(f"PASSED {A}", f"PASSED {B}", END),
            HONEST,
            ("the log has '>>>>> End Test Output' more than once",),
        ),
        (
            GOOD + ">>>>> Test Exit Code: 0\n",
            HONEST,
            ("the log has the exit code of the tests more than once",),
        ),
    ],
)
def test_signs(text: str, records: RunnerRecords, signs: tuple[str, ...]) -> None:
    assert signs_of(text, records) == signs


NO_CHANNEL = replace(HONEST, loaded=False, outcomes=(), ended=False, runner_exit_code=None)


@pytest.mark.parametrize(
    ("text", "records", "signs"),
    [
        (GOOD, NO_CHANNEL, ()),
        (
            log(f"FAILED {A}", f"PASSED {A}", f"PASSED {B}"),
            NO_CHANNEL,
            (f"the log says both that {A} failed and that it did not",),
        ),
        (
            log(f"PASSED {A}", f"PASSED {B}", after=""),
            replace(NO_CHANNEL, script_exit_codes=(1,)),
            ("the tests ended with exit code 1, and the log shows no failure",),
        ),
        (
            log(f"PASSED {A}", f"PASSED {B}", f"FAILED {C}", after=""),
            NO_CHANNEL,
            ("the tests ended with exit code 0, and the log shows a failure",),
        ),
        (
            log(after=f"PASSED {A}\nPASSED {B}"),
            NO_CHANNEL,
            ("the outcomes stand outside of the test output",),
        ),
    ],
)
def test_signs_where_the_runner_has_no_channel(text: str, records: RunnerRecords, signs: tuple[str, ...]) -> None:
    assert signs_of(text, records, command="./run.sh") == signs


def test_only_tests_count_as_unconfirmed() -> None:
    instance = make_instance()
    junk = replace(instance, tests=replace(instance.tests, pass_to_pass=(B, "ERROR:")))
    status = {A: "PASSED", B: "PASSED", "ERROR:": "PASSED"}
    assert unconfirmed_tests(junk, status, HONEST) == []
    assert unconfirmed_tests(junk, status, replace(HONEST, outcomes=())) == [A, B]
