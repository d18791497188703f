"""Whether the log of a resolved result may be believed: it is held against what the test runner said over its channel.

Every sign is a sentence. Signs that a run of the gold patch shows as well are the instance's own and do not count,
which `grading.py` sees to; so an honest verdict stays the official one.
"""

import re

from srl_swe.environments.official_rules import (
    END_MARKER,
    START_MARKER,
    is_failure,
    kept_tests,
    parse_log,
    parse_outcomes,
)
from srl_swe.environments.outcome_channel import RunnerRecords, runs_pytest, runs_unittest
from srl_swe.types import CommandResult, Instance

_EXIT_CODE = re.compile(r"^>>>>> Test Exit Code: *(-?\d+)", re.MULTILINE)


def find_signs(
    instance: Instance, test_status: dict[str, str], result: CommandResult, records: RunnerRecords
) -> tuple[str, ...]:
    """Return what speaks against a log that says "resolved"; `test_status` is what its parser made of it."""
    signs = [*records.signs, *_changed_files(records), *_log_signs(instance, result.output)]
    if not records.began:
        signs.append("the script did not begin its tests as it should")
    signs += _exit_code_signs(result.output, records)
    has_plugin, has_hook = runs_pytest(instance.tests.script), runs_unittest(instance.tests.script)
    if has_plugin or has_hook:
        signs += _runner_signs(instance, test_status, records)
    if not has_plugin:
        signs += [*_conflicts(instance, result.output), *_outcome_signs(test_status, records)]
    return tuple(dict.fromkeys(signs))


def unconfirmed_tests(instance: Instance, test_status: dict[str, str], records: RunnerRecords) -> list[str]:
    """Return the required tests whose outcome in the log the test runner did not report. Junk of a parser, which is
    no test's id, is left out; unittest's tests have no form by which junk could be told."""
    as_unittest = runs_unittest(instance.tests.script)
    said = parse_outcomes(instance, records.outcomes, as_unittest=as_unittest)
    unconfirmed = kept_tests(instance, test_status) - kept_tests(instance, said)
    return sorted(test for test in unconfirmed if "::" in test or instance.tests.expected or as_unittest)


def _changed_files(records: RunnerRecords) -> list[str]:
    changed = set(records.before).symmetric_difference(records.after)
    paths = sorted({re.sub(r"^(?:missing |\S+ \S+ \S+ \d+ \d+ )", "", state) for state in changed})
    return [f"a file was changed while the tests ran: {path}" for path in paths]


def _log_signs(instance: Instance, log: str) -> list[str]:
    signs = [f"the log has {marker!r} more than once" for marker in (START_MARKER, END_MARKER) if log.count(marker) > 1]
    if len(_EXIT_CODE.findall(log)) > 1:
        signs.append("the log has the exit code of the tests more than once")
    if not parse_log(instance, _test_output(log)) and parse_log(instance, log):
        signs.append("the outcomes stand outside of the test output")
    return signs


def _exit_code_signs(log: str, records: RunnerRecords) -> list[str]:
    codes = {*records.script_exit_codes[-1:], *(int(code) for code in _EXIT_CODE.findall(log)[:1])}
    if records.runner_exit_code is not None:
        codes.add(records.runner_exit_code)
    contradict = len(codes) > 1
    return [f"the tests ended with exit codes that contradict each other: {sorted(codes)}"] if contradict else []


def _outcome_signs(test_status: dict[str, str], records: RunnerRecords) -> list[str]:
    failed = any(is_failure(status) for status in test_status.values())
    if not records.script_exit_codes or failed == (records.script_exit_codes[-1] != 0):
        return []
    found = "a" if failed else "no"
    return [f"the tests ended with exit code {records.script_exit_codes[-1]}, and the log shows {found} failure"]


def _runner_signs(instance: Instance, test_status: dict[str, str], records: RunnerRecords) -> list[str]:
    if not records.loaded:
        return ["the test runner did not load the grader's plugin"]
    signs = [] if records.ended else ["the test runner did not come to its end"]
    unconfirmed = unconfirmed_tests(instance, test_status, records)
    return signs + [f"the test runner did not report what the log says of {test}" for test in unconfirmed]


def _conflicts(instance: Instance, log: str) -> list[str]:
    """Return the required tests that some line calls failed, whatever a later one says."""
    required = {*instance.tests.fail_to_pass, *instance.tests.pass_to_pass}
    failed: set[str] = set()
    for line in set(_test_output(log).splitlines()):
        failed |= {test for test, status in parse_log(instance, line).items() if is_failure(status)} & required
    return [f"the log says both that {test} failed and that it did not" for test in sorted(failed)]


def _test_output(log: str) -> str:
    return log.partition(START_MARKER)[2].partition(END_MARKER)[0]
