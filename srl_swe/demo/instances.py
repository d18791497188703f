"""Proven bugs become task instances: rows of source distributions, with a problem statement made from the failures.

Every candidate's outcome is one line on disk, so that a killed run goes on where it stopped. The rows are read by
`srl_swe.environments.instances` like any others; making and proving bugs is left to `bugs` and `proof`.
"""

import hashlib
import json
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srl_swe.demo.bugs import Bug, candidate_bugs, replacement
from srl_swe.demo.packages import INSTALL_COMMAND, PYTHON_VERSION, WORKDIR, DemoPackage
from srl_swe.demo.proof import Proven, ProvingContainer
from srl_swe.environments.downloads import sdist_file
from srl_swe.environments.engine import Engine
from srl_swe.environments.instances import instance_from_row
from srl_swe.errors import DataError
from srl_swe.files import append_json_line, repair_last_line, write_atomically
from srl_swe.pool import WorkPool

MAX_TRIES_PER_FUNCTION = 5
MAX_LISTED_FAILURES = 3
SECONDS_PER_INSTANCE = 60.0
"""Bound on the proving, image included; about 2 s are usual."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """What the scripted expert knows of a bug: the key "repair" of a row."""

    kind: str
    path: str
    class_name: str
    function: str
    line: int
    """Line of the bug in the broken file, from 1."""
    old: str
    """Lines of the broken file, found there only once."""
    new: str


def make_instances(
    engine: Engine,
    folder: Path,
    packages: Sequence[DemoPackage],
    *,
    num_instances: int,
    seed: int,
    notify: Callable[[str], None],
) -> Path:
    """Write `folder/instances.jsonl` with `num_instances` rows, as many of each package, and return its path.

    Each row breaks a function of its own, so that a split by instance is a split by function too.

    Raises:
        DataError: a package has too few proven bugs.
        ContainerError: the engine failed.
    """
    target = folder / "instances.jsonl"
    if target.is_file():
        return target
    shares = [num_instances // len(packages) + (i < num_instances % len(packages)) for i in range(len(packages))]
    rows_of: dict[str, list[dict[str, Any]]] = {}

    def prove(item: tuple[DemoPackage, int]) -> list[dict[str, Any]]:
        return _package_rows(engine, folder, item[0], item[1], seed, notify)

    for (package, _), outcome in WorkPool(len(packages)).run(
        list(zip(packages, shares, strict=True)), prove, limit_s=lambda item: 600.0 + SECONDS_PER_INSTANCE * item[1]
    ):
        if isinstance(outcome, Exception):
            raise outcome
        rows_of[package.name] = outcome
    rows = [row for package in packages for row in rows_of[package.name]]
    write_atomically(target, "".join(json.dumps(row) + "\n" for row in rows))
    return target


def candidate_counts(folder: Path) -> Counter[tuple[str, str]]:
    """Count by (kind, outcome) every candidate that was tried in `folder`."""
    records = (record for path in sorted(folder.glob("candidates-*.jsonl")) for record in _records(path))
    return Counter((record["kind"], record["outcome"]) for record in records)


def problem_statement(package: str, fail_to_pass: Sequence[str], failure_lines: Mapping[str, str]) -> str:
    """Write what a user could report who saw only the failing tests: their ids and errors."""
    listed = fail_to_pass[:MAX_LISTED_FAILURES]
    names = ", ".join(dict.fromkeys(test.partition("[")[0].rpartition("::")[2] for test in listed))
    lines = [f"Failing tests in {package}: {names}", "", *(failure_lines[test] for test in listed)]
    if len(fail_to_pass) > len(listed):
        lines.append(f"and {len(fail_to_pass) - len(listed)} more")
    return "\n".join([*lines, "", "The tests are right and the code is wrong. Please fix the code."])


def package_sources(package: DemoPackage) -> dict[str, str]:
    """Return path -> text of the source files that get bugs, from the source distribution.

    Raises:
        DataError: the distribution lacks one of them.
        ImageError: the distribution cannot be fetched.
    """
    sources: dict[str, str] = {}
    with tarfile.open(sdist_file(package.recipe(""))) as archive:
        for path, _ in package.test_file_of:
            try:
                member = archive.extractfile(f"{package.name}-{package.version}/{path}")
            except KeyError:
                member = None
            if member is None:
                raise DataError(f"{package.sdist_filename}: expected the file {path}, found none")
            sources[path] = member.read().decode("utf-8")
    return sources


def _package_rows(
    engine: Engine, folder: Path, package: DemoPackage, num_rows: int, seed: int, notify: Callable[[str], None]
) -> list[dict[str, Any]]:
    log = folder / f"candidates-{package.name}.jsonl"
    repair_last_line(log)
    judged = {record["bug_id"]: record for record in _records(log)}
    sources = package_sources(package)
    container: ProvingContainer | None = None
    tries: Counter[tuple[str, str, str]] = Counter()
    rows: list[dict[str, Any]] = []
    with ExitStack() as open_containers:
        for bug in _candidates(package, sources, seed):
            if len(rows) == num_rows:
                return rows
            function = (bug.path, bug.class_name, bug.function)
            tries[function] += 1
            if tries[function] > MAX_TRIES_PER_FUNCTION:
                continue
            record = judged.get(_bug_id(bug))
            if record is None:
                if container is None:
                    container = open_containers.enter_context(ProvingContainer(engine, package, sources, bug))
                record = _record(package, bug, sources[bug.path], container.judge(bug))
                append_json_line(log, record)
            if record["row"] is not None:
                rows.append(record["row"])
                tries[function] = MAX_TRIES_PER_FUNCTION
                notify(f"{package.name}: {len(rows)} of {num_rows} bugs proven")
    raise DataError(
        f"{package.name} {package.version}: expected {num_rows} proven bugs, found only {len(rows)} among all"
        " candidates; ask for fewer instances"
    )


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _candidates(package: DemoPackage, sources: Mapping[str, str], seed: int) -> Iterator[Bug]:
    """Yield the candidates of all files in turn; the order depends on the seed alone."""
    files = [
        candidate_bugs(text, path, random.Random(f"{seed} {package.name} {path}")) for path, text in sources.items()
    ]
    while files:
        for candidates in list(files):
            bug = next(candidates, None)
            if bug is None:
                files.remove(candidates)
            else:
                yield bug


def _bug_id(bug: Bug) -> str:
    return f"{bug.kind}__{hashlib.sha256((bug.path + bug.broken_source).encode()).hexdigest()[:8]}"


def _record(package: DemoPackage, bug: Bug, source: str, verdict: Proven | str) -> dict[str, Any]:
    return {
        "bug_id": _bug_id(bug),
        "kind": bug.kind,
        "function": f"{bug.path} {bug.class_name} {bug.function}",
        "outcome": verdict if isinstance(verdict, str) else "kept",
        "row": None if isinstance(verdict, str) else _row(package, bug, source, verdict),
    }


def _row(package: DemoPackage, bug: Bug, source: str, proven: Proven) -> dict[str, Any]:
    old, new = replacement(bug.broken_source, source)
    repair = Repair(
        kind=bug.kind,
        path=bug.path,
        class_name=bug.class_name,
        function=bug.function,
        line=bug.line,
        old=old,
        new=new,
    )
    row = {
        "instance_id": f"{package.repo.replace('/', '__')}.{package.version}.{_bug_id(bug)}",
        "source": {"dataset": "srl-swe demo"},
        "package": {
            "name": package.name,
            "version": package.version,
            "sdist_filename": package.sdist_filename,
            "sha256": package.sdist_sha256,
            "license": package.license,
        },
        "repo": package.repo,
        "language": "python",
        "python": PYTHON_VERSION,
        "pip_requirements": list(package.requirements),
        "install_cmd": INSTALL_COMMAND,
        "workdir": WORKDIR,
        "test_cmd": package.test_command(bug.path),
        "test_files": [dict(package.test_file_of)[bug.path]],
        "f2p_test_files": [],
        "log_parser": "pytest",
        "bug_patch": bug.bug_patch,
        "patch": bug.gold_patch,
        "FAIL_TO_PASS": list(proven.fail_to_pass),
        "PASS_TO_PASS": list(proven.pass_to_pass),
        "problem_statement": problem_statement(package.name, proven.fail_to_pass, proven.broken.failure_lines),
        "timings": {"bug_s": proven.broken.duration_s, "gold_s": [summary.duration_s for summary in proven.clean]},
        "method": bug.kind,
        "source_files": [bug.path],
        "repair": asdict(repair),
    }
    instance_from_row(row, where=f"{package.name}, {_bug_id(bug)}")
    return row
