"""Which instances cannot be resolved on this machine: their own gold patch does not pass their tests here.

Made from an evaluation of the gold patches. The list excludes nothing by itself: `--exclude-ids @FILE` does, and says
so. Instances whose grading failed with the infrastructure are listed apart, as nothing is known of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from srl_swe.environments.official_rules import tests_report
from srl_swe.evaluation.record import EvaluationRecord, InstanceOutcome
from srl_swe.evaluation.results import read_stored
from srl_swe.evaluation.stability import how_often
from srl_swe.files import write_atomically
from srl_swe.types import Instance

GOLD_FAILURES_FILE = "gold-failures.json"
IDS_FILE = "gold-failures.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldFailure:
    """An instance whose gold patch was not resolved in every grading."""

    instance_id: str
    repo: str
    reason: str
    tests: Mapping[str, str]
    """Test that had to pass -> what it did instead; "absent" = the log does not name it."""
    gradings: str = ""
    """How often it was resolved, where it was graded more than once."""


def find_gold_failures(
    folder: Path, record: EvaluationRecord, instances: Sequence[Instance]
) -> tuple[tuple[GoldFailure, ...], tuple[str, ...]]:
    """Return the failures of an evaluation of gold patches, and the ids of which nothing is known."""
    rows = {instance.instance_id: instance for instance in instances}
    failures = tuple(
        GoldFailure(
            instance_id=each.instance_id,
            repo=each.repo,
            reason=each.reason or "flaky",
            tests=_failed_tests(folder, each, rows[each.instance_id]),
            gradings=how_often(each.gradings) if each.gradings else "",
        )
        for each in record.instances
        if each.outcome == "unresolved" or each.flaky
    )
    unknown = tuple(each.instance_id for each in record.instances if each.outcome not in ("resolved", "unresolved"))
    return failures, unknown


def write_gold_failures(
    folder: Path, record: EvaluationRecord, failures: Sequence[GoldFailure], unknown: Sequence[str]
) -> Path:
    """Write the list with reasons as JSON, and the bare ids one a line; return the path of the ids."""
    content = {
        "schema_version": 1,
        "split": record.split,
        "harness": record.harness,
        "num_instances": len(record.instances),
        "num_sound": len(record.instances) - len(failures) - len(unknown),
        "failures": [asdict(failure) for failure in failures],
        "unknown": list(unknown),
    }
    write_atomically(folder / GOLD_FAILURES_FILE, json.dumps(content, indent=1) + "\n")
    path = folder / IDS_FILE
    write_atomically(path, "".join(f"{failure.instance_id}\n" for failure in failures))
    return path


def _failed_tests(folder: Path, outcome: InstanceOutcome, instance: Instance) -> dict[str, str]:
    if outcome.verdict is None or outcome.outcome == "resolved":
        return dict.fromkeys(outcome.unstable_tests, "not the same in all gradings")
    status = read_stored(folder / outcome.verdict)[0].test_status
    if not status:  # the tests did not come to anything: the reason says why
        return {}
    kinds = tests_report(instance, status).values()
    return {name: status.get(name, "absent") for kind in kinds for name in kind["failure"]}
