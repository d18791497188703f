"""Real test logs of SWE-Gym with recorded verdicts: judged by the official rules, they come out as recorded.

The rows have no lists of required tests. These are taken from what passed in all *other* logs of the same instance
that were recorded as resolved, or, where there is no other, in the log itself.
"""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

pytest.importorskip("swebench", reason="grading needs the extra [eval]")

from srl_swe.environments.official_rules import END_MARKER, START_MARKER, judge_log, parse_log
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests

Logs = dict[str, list[tuple[str, bool]]]


@pytest.fixture(scope="module")
def logs(shared_data: Path) -> Logs:
    """(log, recorded as resolved) by instance."""
    found: Logs = defaultdict(list)
    lines = (shared_data / "trajectories" / "swe_gym_openhands_sampled.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, lines):
        if log := row["test_result"]["test_output"]:
            found[re.sub(r"_\d+$", "", row["instance_id"])].append((log, row["resolved"]))
    return found


def instance_of(instance_id: str, required: set[str]) -> Instance:
    return Instance(
        instance_id=instance_id,
        repo="",
        base_commit="",
        problem_statement="",
        environment=InstanceEnvironment(image=""),
        tests=InstanceTests(
            script="", parser="parse_log_pytest", fail_to_pass=(), pass_to_pass=tuple(sorted(required))
        ),
        gold_patch="",
    )


def passed(log: str) -> set[str]:
    return {test for test, status in parse_log(instance_of("", set()), log).items() if status == "PASSED"}


def resolved(instance_id: str, required: set[str], log: str) -> bool:
    marked = f": '{START_MARKER}'\n{log}\n: '{END_MARKER}'\n"
    return judge_log(instance_of(instance_id, required), marked).resolved


def test_logs_are_judged_as_recorded(logs: Logs) -> None:
    outcomes = []
    for instance_id, rows in logs.items():
        for index, (log, recorded) in enumerate(rows):
            others = [passed(other) for number, (other, good) in enumerate(rows) if good and number != index]
            required = set.intersection(*(others or [passed(log)]))
            assert required, instance_id
            outcomes.append((instance_id, recorded, resolved(instance_id, required, log)))
    assert [found for found in outcomes if found[1] != found[2]] == []
    assert (len(outcomes), sum(recorded for _, recorded, _ in outcomes)) == (26, 24)


def test_one_required_test_that_fails_or_is_absent_changes_the_verdict(logs: Logs) -> None:
    for instance_id, rows in logs.items():
        log = next(log for log, good in rows if good)
        required = passed(log)
        line = re.compile(rf"^PASSED {re.escape(min(required))}.*$", re.MULTILINE)
        assert resolved(instance_id, required, log)
        assert not resolved(instance_id, required, line.sub(f"FAILED {min(required)}", log)), instance_id
        assert not resolved(instance_id, required, line.sub("", log)), instance_id
