"""The published log parsers and resolution rules, behind one function: swebench's, and R2E-Gym's for its rows.

The only file that imports swebench: that takes a second and more than a hundred megabytes, so it happens at the first
call. Its side effects on this process (a .env file loaded, the limit on open files) are undone.
"""

import os
import resource
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from srl_swe.environments.exact_outcomes import EXACT, as_expected, as_summary, is_exact, parse_summary
from srl_swe.errors import DataError, MissingExtraError
from srl_swe.types import Instance

START_MARKER = ">>>>> Start Test Output"
END_MARKER = ">>>>> End Test Output"
"""swebench 5.0.2 `harness.constants`: what an evaluation script prints around the tests."""

_UNITTEST_WORDS = {
    "PASSED": "ok",
    "FAILED": "FAIL",
    "ERROR": "ERROR",
    "SKIPPED": "skipped ''",
    "XFAIL": "expected failure",
    "XPASS": "unexpected success",
}
_import_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What the rules say of one log."""

    resolved: bool
    test_status: dict[str, str]
    """Outcome per test id; empty when the log counts as no run at all."""


def require_rules(instance: Instance) -> None:
    """Check, before anything runs, that swebench is there and knows the instance's parser and rule.

    Raises:
        MissingExtraError: swebench is not installed.
        DataError: it does not know the parser or the rule.
    """
    if instance.tests.eval_type == EXACT:
        return
    grading = _grading_module()
    if instance.tests.parser not in grading.PARSER_REGISTRY:
        raise DataError(
            f"instance {instance.instance_id}: swebench has no log parser {instance.tests.parser!r};"
            f" expected one of {', '.join(sorted(grading.PARSER_REGISTRY))}"
        )
    rules = [rule.value for rule in grading.EvalType]
    if instance.tests.eval_type not in rules:
        raise DataError(
            f"instance {instance.instance_id}: swebench has no rule {instance.tests.eval_type!r};"
            f" expected one of {rules}"
        )


def tests_report(instance: Instance, test_status: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    """Return swebench's `get_eval_tests_report` of outcomes: FAIL_TO_PASS and PASS_TO_PASS -> success and failure."""
    if instance.tests.eval_type == EXACT:
        right = as_expected(dict(instance.tests.expected), test_status)
        wrong = set(instance.tests.pass_to_pass) - right
        return {
            "FAIL_TO_PASS": {"success": [], "failure": []},
            "PASS_TO_PASS": {"success": sorted(right), "failure": sorted(wrong)},
        }
    grading = _grading_module()
    expected = {
        "instance_id": instance.instance_id,
        "FAIL_TO_PASS": list(instance.tests.fail_to_pass),
        "PASS_TO_PASS": list(instance.tests.pass_to_pass),
    }
    rule = grading.EvalType(instance.tests.eval_type)
    report: dict[str, dict[str, list[str]]] = grading.get_eval_tests_report(dict(test_status), expected, eval_type=rule)
    return report


def judge_log(instance: Instance, log: str) -> Judgement:
    """Apply swebench's `get_logs_eval`, `get_eval_tests_report` and `get_resolution_status` to a test log.

    A log without both markers, without any parsed outcome or sign of a run, or whose exit code contradicts its
    outcomes is not resolved, as in swebench. R2E-Gym's instances have its own parser and rule.
    """
    if instance.tests.eval_type == EXACT:
        tests_log = log.partition(START_MARKER)[2].partition(END_MARKER)
        outcomes = parse_summary(tests_log[0]) if tests_log[1] else {}
        return Judgement(
            resolved=bool(outcomes) and is_exact(dict(instance.tests.expected), outcomes), test_status=outcomes
        )
    grading = _grading_module()
    tests = instance.tests
    expected = {"instance_id": instance.instance_id, **_expected(instance)}
    spec = _spec(instance)
    with tempfile.NamedTemporaryFile("w", suffix=".log", encoding="utf-8", errors="replace") as file:
        file.write(log)
        file.flush()
        status, counts_as_run = grading.get_logs_eval(spec, file.name)
    if not counts_as_run:
        return Judgement(resolved=False, test_status={})
    report = grading.get_eval_tests_report(status, expected, eval_type=grading.EvalType(tests.eval_type))
    resolved = grading.get_resolution_status(report) == grading.ResolvedStatus.FULL.value
    return Judgement(resolved=resolved, test_status=dict(status))


def parse_log(instance: Instance, log: str) -> dict[str, str]:
    """Return what the instance's parser makes of some text of a log: outcome per test id."""
    if instance.tests.eval_type == EXACT:
        return parse_summary(log)
    grading = _grading_module()
    return dict(grading.PARSER_REGISTRY[instance.tests.parser](log, _spec(instance)))


def parse_outcomes(instance: Instance, outcomes: Iterable[tuple[str, str]], *, as_unittest: bool) -> dict[str, str]:
    """Return what the instance's parser would make of a log that says (test, word of pytest's short summary), as
    pytest or as unittest prints it."""
    if instance.tests.eval_type == EXACT:
        return parse_summary(as_summary(outcomes))
    if as_unittest:
        return parse_log(instance, "".join(f"{test} ... {_UNITTEST_WORDS[outcome]}\n" for test, outcome in outcomes))
    return parse_log(instance, "\n".join(f"{outcome} {test}" for test, outcome in outcomes))


def kept_tests(instance: Instance, test_status: Mapping[str, str]) -> set[str]:
    """Return the required tests that are as they must be: passed, or also skipped where they only had to go on."""
    if instance.tests.eval_type == EXACT:
        return as_expected(dict(instance.tests.expected), test_status)
    grading = _grading_module()
    passed = {test for test in instance.tests.fail_to_pass if grading.test_passed(test, test_status)}
    return passed | {test for test in instance.tests.pass_to_pass if grading.test_maintained(test, test_status)}


def is_failure(status: str) -> bool:
    """Tell whether swebench's word means that a test failed."""
    return status in ("FAILED", "ERROR")


def _expected(instance: Instance) -> dict[str, list[str]]:
    return {
        "FAIL_TO_PASS": list(instance.tests.fail_to_pass),
        "PASS_TO_PASS": list(instance.tests.pass_to_pass),
    }


def _spec(instance: Instance) -> Any:
    return _grading_module().TestSpec(
        image=instance.environment.image,
        eval_script_list=[],
        repo=instance.repo,
        version="",
        log_parser=instance.tests.parser,
        eval_type=instance.tests.eval_type,
        instance_id=instance.instance_id,
        **_expected(instance),
    )


def _grading_module() -> ModuleType:
    with _import_lock:
        return _import_grading()


@cache
def _import_grading() -> ModuleType:
    environment = dict(os.environ)
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        from swebench.harness import grading
    except ImportError as error:
        raise MissingExtraError(
            f"grading needs swebench, which cannot be imported ({error}): pip install 'srl-swe[eval]'"
        ) from error
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        if resource.getrlimit(resource.RLIMIT_NOFILE) != open_files:
            resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
    module: ModuleType = grading
    return module
