"""What the SWE-bench leaderboard and sb-cli ask for, written from a finished evaluation.

The folder is one submission of the repository SWE-bench/experiments, `evaluation/<board>/<date>_<name>`, in the form of
its README and checklist.md of July 2025: all_preds.jsonl (sb-cli takes the same file), metadata.yaml, README.md,
results/, and logs/ and trajs/. Whether it is complete is left to `submission_checks`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from srl_swe import __version__
from srl_swe.environments.official_rules import tests_report
from srl_swe.errors import DataError, MissingExtraError
from srl_swe.evaluation.episodes import TRAJECTORIES_FOLDER
from srl_swe.evaluation.record import RECORD_FILE, EvaluationRecord, InstanceOutcome, read_record
from srl_swe.evaluation.results import read_stored, row_hash
from srl_swe.files import file_name, write_atomically
from srl_swe.types import Instance, Prediction, Verdict

PREDICTIONS = "all_preds.jsonl"
METADATA = "metadata.yaml"
README = "README.md"
RESULTS = "results/results.json"
BY_REPO = "results/resolved_by_repo.json"
LOGS, TRAJECTORIES = "logs", "trajs"
TO_FILL_IN = "TO BE FILLED IN"
"""Stands where only the submitter knows what to write; the checks refuse it."""

BoardName = Literal["verified", "lite", "test", "multilingual"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """A leaderboard that takes folders."""

    split: str
    """Short name of its task set."""
    num_instances: int
    sb_cli: str = ""
    """Subset and split as sb-cli names them; empty = sb-cli does not serve it."""


BOARDS: dict[BoardName, Board] = {
    "verified": Board(split="verified", num_instances=500, sb_cli="swe-bench_verified test"),
    "lite": Board(split="lite", num_instances=300, sb_cli="swe-bench_lite test"),
    "test": Board(split="full", num_instances=2294),
    "multilingual": Board(split="multilingual", num_instances=300),
}
"""Folder under evaluation/ in SWE-bench/experiments -> what it takes."""

CHECKLIST = (
    "Is a pass@1 submission (does not attempt the same task instance more than once)",
    "Does not use SWE-bench test knowledge (`PASS_TO_PASS`, `FAIL_TO_PASS`)",
    "Does not use the `hints` field in SWE-bench",
    "Does not have web-browsing OR has taken steps to prevent lookup of SWE-bench solutions via web-browsing",
)
"""The four statements that checklist.md asks a submitter to confirm; nobody else can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What metadata.yaml says of the system; None and empty = to be filled in."""

    name: str = ""
    """Name of the entry on the leaderboard."""
    model: tuple[str, ...] = ()
    """Models that the system uses."""
    org: tuple[str, ...] = ()
    """Organisations."""
    authors: tuple[str, ...] = ()
    """People who made the submission."""
    site: str = ""
    """Address that the entry leads to."""
    report: str = ""
    """Address of the technical report, which the leaderboard requires."""
    os_model: bool | None = None
    """Whether the model's weights are open."""
    os_system: bool | None = None
    """Whether the system's code is open."""
    attempts: Literal["1", "2+"] = "1"
    """Attempts at an instance of which the system chose one without the tests: 1, or 2+."""


def write_kit(
    folder: Path,
    kit: Path,
    instances: Sequence[Instance],
    *,
    board: BoardName,
    about: About,
    trajectories: Path | None = None,
) -> tuple[str, ...]:
    """Write the kit of the evaluation in `folder`; return the names of files that were there and are kept.

    metadata.yaml and README.md are the submitter's once they exist; all else is written anew. `trajectories` is where
    the reasoning traces are, by default the evaluation's own.

    Raises:
        DataError: the evaluation is not one of these rows or of one model, a stored verdict is damaged, or `kit` holds
            something else.
        MissingExtraError: PyYAML or swebench is not installed.
    """
    record = read_record(folder)
    rows = {instance.instance_id: instance for instance in instances}
    _check_same_rows(record, rows)
    if len(record.models) > 1:
        raise DataError(
            f"{folder}: holds predictions of {len(record.models)} models ({', '.join(record.models[:5])}); a "
            "submission is of one: give them one model_name_or_path and evaluate again, which grades nothing twice"
        )
    _check_replaceable(kit)
    for name in (LOGS, TRAJECTORIES, "results"):
        shutil.rmtree(kit / name, ignore_errors=True)
    predictions = []
    for outcome in record.instances:
        if outcome.verdict is None:
            continue
        verdict, patch = _stored(folder, outcome)
        predictions.append(
            Prediction(instance_id=outcome.instance_id, model_name_or_path=record.model, model_patch=patch)
        )
        if patch:
            _write_log(kit / LOGS / file_name(outcome.instance_id), rows[outcome.instance_id], verdict, patch, record)
        _copy_trajectory(trajectories or folder / TRAJECTORIES_FOLDER, kit / TRAJECTORIES, outcome.instance_id)
    write_atomically(kit / PREDICTIONS, "".join(json.dumps(asdict(each)) + "\n" for each in predictions))
    _write_json(kit / RESULTS, _results(record))
    _write_json(kit / BY_REPO, _by_repo(record))
    kept = []
    for name, text in ((METADATA, _metadata(kit, board, about)), (README, _readme(kit, board, record, about))):
        if (kit / name).exists():
            kept.append(name)
        else:
            write_atomically(kit / name, text)
    return tuple(kept)


def _check_replaceable(kit: Path) -> None:
    if (kit / RECORD_FILE).exists():
        raise DataError(f"{kit}: is the folder of an evaluation; name another one for the kit, with --out")
    if kit.exists() and not (kit / PREDICTIONS).is_file() and any(kit.iterdir()):
        raise DataError(f"{kit}: holds other files and no {PREDICTIONS}; name a new folder for the kit, with --out")


def _check_same_rows(record: EvaluationRecord, rows: Mapping[str, Instance]) -> None:
    unknown = [each.instance_id for each in record.instances if each.instance_id not in rows]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(record.instances)} evaluated instances are not among the {len(rows)} rows given "
            f"({', '.join(unknown[:5])}): give the rows that were evaluated, with --instances"
        )
    changed = [each.instance_id for each in record.instances if each.row != row_hash(rows[each.instance_id])]
    if changed:
        raise DataError(
            f"{len(changed)} of {len(record.instances)} instances were judged by other tests than these rows hold "
            f"({', '.join(changed[:5])}): give the rows that were evaluated, or evaluate on these"
        )


def _stored(folder: Path, outcome: InstanceOutcome) -> tuple[Verdict, str]:
    assert outcome.verdict is not None
    try:
        return read_stored(folder / outcome.verdict)
    except (OSError, ValueError) as error:
        raise DataError(
            f"instance {outcome.instance_id}: its verdict {folder / outcome.verdict} cannot be read ({error}); run the "
            "same evaluation again, which grades what is missing"
        ) from error


def _write_log(folder: Path, instance: Instance, verdict: Verdict, patch: str, record: EvaluationRecord) -> None:
    """Write what the official harness leaves of an instance; run_instance.log says who judged instead of it."""
    write_atomically(folder / "patch.diff", patch)
    write_atomically(folder / "eval.sh", instance.tests.script)
    write_atomically(folder / "test_output.txt", verdict.log)
    _write_json(folder / "report.json", {instance.instance_id: _official_outcome(instance, verdict)})
    lines = (
        f"instance {instance.instance_id}, image {instance.environment.image}",
        f"judged by srl_swe {__version__} ({record.harness}), in {verdict.duration_s:.1f} s",
        f"verdict: {verdict.status}{f' ({verdict.reason})' if verdict.reason else ''}",
    )
    write_atomically(folder / "run_instance.log", "".join(f"{line}\n" for line in lines))


def _official_outcome(instance: Instance, verdict: Verdict) -> dict[str, Any]:
    """Return what swebench 5.0.2's `get_eval_report` returns of such a verdict."""
    found: dict[str, Any] = {
        "patch_is_None": False,
        "patch_exists": True,
        "patch_successfully_applied": bool(verdict.test_status),
        "resolved": verdict.status == "resolved",
        "infra_failure": verdict.status == "invalid",
    }
    if verdict.test_status:
        found["tests_status"] = tests_report(instance, verdict.test_status)
    return found


def _copy_trajectory(source: Path, target: Path, instance_id: str) -> None:
    """Copy the files and folders that are named after an instance; its id must be in the name."""
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        if is_named_after(path.name, file_name(instance_id)):
            target.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target / path.name)
            else:
                shutil.copyfile(path, target / path.name)


def is_named_after(name: str, instance_name: str) -> bool:
    """Whether a reasoning trace is this instance's: its name, then nothing or an ending.

    >>> is_named_after("a__b-1.traj.json", "a__b-1"), is_named_after("a__b-12.json", "a__b-1")
    (True, False)
    """
    return name == instance_name or name.startswith(f"{instance_name}.")


def _results(record: EvaluationRecord) -> dict[str, list[str]]:
    """Return results.json as the leaderboard's own script makes it."""
    return {
        "no_generation": sorted(
            each.instance_id
            for each in record.instances
            if each.outcome == "not predicted" or each.reason == "empty patch"
        ),
        "no_logs": sorted(each.instance_id for each in record.instances if each.outcome in ("invalid", "pending")),
        "resolved": sorted(each.instance_id for each in record.instances if each.outcome == "resolved"),
    }


def _by_repo(record: EvaluationRecord) -> dict[str, dict[str, int]]:
    repos: dict[str, dict[str, int]] = {}
    for each in sorted(record.instances, key=lambda each: each.repo):
        counts = repos.setdefault(each.repo, {"resolved": 0, "total": 0})
        counts["resolved"] += each.outcome == "resolved"
        counts["total"] += 1
    return repos


def _metadata(kit: Path, board: BoardName, about: About) -> str:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("metadata.yaml needs PyYAML: pip install 'srl-swe[eval]'") from error
    name = kit.resolve().name

    def said(value: Any) -> Any:
        return TO_FILL_IN if value is None or value in ("", []) else value

    content = {
        # The bucket is the leaderboard's: its maintainers copy logs/ and trajs/ there.
        "assets": {key: f"s3://swe-bench-submissions/{board}/{name}/{key}" for key in (LOGS, TRAJECTORIES)},
        "info": {
            "name": said(about.name),
            "authors": said(list(about.authors)),
            "report": said(about.report),
            "site": said(about.site),
        },
        "tags": {
            "checked": False,
            "model": said(list(about.model)),
            "org": said(list(about.org)),
            "os_model": said(about.os_model),
            "os_system": said(about.os_system),
            "system": {"attempts": 1 if about.attempts == "1" else about.attempts},
        },
    }
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _readme(kit: Path, board: BoardName, record: EvaluationRecord, about: About) -> str:
    total, resolved = len(record.instances), record.count("resolved")
    repos = "\n".join(
        f"- {repo}: {counts['resolved']}/{counts['total']} ({100 * counts['resolved'] / counts['total']:.2f}%)"
        for repo, counts in _by_repo(record).items()
    )
    checklist = "\n".join(f"- [ ] {statement}" for statement in CHECKLIST)
    return f"""\
# {about.name or record.model}

{TO_FILL_IN}: what the system is, who made it, a link to the technical report and to the first author.

## Submission summary for {kit.resolve().name} on SWE-bench {board}

Resolved {resolved} instances ({100 * resolved / max(1, total):.1f}% of {total}).

Resolved by repository
{repos}

Judged by srl_swe {__version__} ({record.harness}); `logs/<instance>/run_instance.log` says so of each instance.

## Checklist

{checklist}
"""


def _write_json(path: Path, content: object) -> None:
    write_atomically(path, json.dumps(content, indent=4) + "\n")
