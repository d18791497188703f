"""Rows of task data sets become `Instance` records.

Knows two kinds of rows and tells them apart by their fields, never by the file's name: SWE-bench v5 rows, which carry
image and evaluation script themselves, and source-distribution rows, whose image is built from a package's sdist plus
a bug patch. Leaves out the look-up of data sets by hub name (`srl_swe.evaluation`) and everything that runs.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from srl_swe.environments.allow_list import AllowList
from srl_swe.environments.image_names import instance_image_name, package_image_name
from srl_swe.errors import DataError, MissingExtraError
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests, SdistRecipe

SWEBENCH_TIMEOUT_S = 1800.0
"""swebench 5.0.2 `run_evaluation --timeout`."""

MIN_SDIST_TIMEOUT_S = 120.0
SDIST_TIMEOUT_FACTOR = 20.0
"""An sdist row's tests may take this many times the slowest run that the row reports."""

_PARSERS = {"pytest": "parse_log_pytest"}
_TEST_FOLDERS = ("tests", "test", "testing")


def _test_ids(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _inside_tree(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or pure.parts[0] == ".git":
        raise ValueError("must be a relative path inside the work tree")
    return str(pure)


def _absolute(path: str) -> str:
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or len(pure.parts) < 2:
        raise ValueError("must be an absolute path below /")
    return str(pure)


def _allow_list(hosts: list[str]) -> list[str]:
    AllowList(hosts)  # raises ConfigError, a ValueError
    return hosts


NonEmpty = Annotated[str, Field(min_length=1)]
TestIds = Annotated[list[str], BeforeValidator(_test_ids)]
TreePath = Annotated[str, AfterValidator(_inside_tree)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    instance_id: NonEmpty
    repo: NonEmpty
    network: Annotated[list[str], AfterValidator(_allow_list)] = []
    problem_statement: str
    patch: NonEmpty
    FAIL_TO_PASS: TestIds
    PASS_TO_PASS: TestIds
    difficulty: str | None = None


class _SwebenchRow(_Row):
    base_commit: NonEmpty
    image: NonEmpty
    eval_script: NonEmpty
    log_parser: NonEmpty
    eval_type: Annotated[str, Field(pattern="^(pass_and_fail|fail_only)$")] = "pass_and_fail"


class _Package(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9.!+_-]+$")]
    sdist_filename: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*\.tar\.(gz|bz2)$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Timings(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    bug_s: float = 0.0
    gold_s: list[float] = []


class _SdistRow(_Row):
    package: _Package
    pip_requirements: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+$")]]
    install_cmd: NonEmpty
    workdir: Annotated[str, AfterValidator(_absolute)] = "/testbed"
    test_cmd: NonEmpty
    test_files: list[TreePath]
    f2p_test_files: list[TreePath] = []
    log_parser: NonEmpty = "pytest"
    bug_patch: NonEmpty
    timings: _Timings = _Timings()


_RowKind = TypeVar("_RowKind", bound=_Row)


def load_instances(path: str | Path) -> list[Instance]:
    """Read every instance of a .jsonl, .json (one list) or .parquet file, in file order.

    Raises:
        DataError: the file is missing, unreadable or empty, a row is not valid, or two rows share an id.
    """
    path = Path(path)
    instances: list[Instance] = []
    place_of: dict[str, str] = {}
    for where, row in _rows(path):
        instance = instance_from_row(row, where=where)
        if instance.instance_id in place_of:
            raise DataError(
                f"{where}: instance {instance.instance_id} was already given at {place_of[instance.instance_id]};"
                " ids must be unique: remove one of the two rows"
            )
        place_of[instance.instance_id] = where
        instances.append(instance)
    if not instances:
        raise DataError(f"{path}: expected at least one instance, found none")
    return instances


def instance_from_row(row: Mapping[str, Any], *, where: str) -> Instance:
    """Turn one row into an Instance; `where` names file and row in errors.

    Raises:
        DataError: the row is of no known kind, or a field is missing or wrong.
    """
    if "bug_patch" in row and "package" in row:
        return _from_sdist(_validated(_SdistRow, row, where), where)
    if "eval_script" in row and "image" in row:
        return _from_swebench(_validated(_SwebenchRow, row, where))
    name = f"{where}, instance {row.get('instance_id', '(without id)')}"
    if "test_patch" in row and "base_commit" in row:
        raise DataError(
            f"{name}: a SWE-bench row of the old schema, without `image` and `eval_script`; get the rows of schema v5"
            " (the SWE-bench organisation's current data sets, read by swebench 5 and later)"
        )
    raise DataError(
        f"{name}: unknown kind of row; expected a SWE-bench v5 row (image, eval_script, log_parser…) or a"
        f" source-distribution row (package, bug_patch, test_cmd…), found the fields {sorted(map(str, row))}"
    )


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected instances as .jsonl, .json or .parquet")
    try:
        if path.suffix == ".parquet":
            raw: list[Any] = _parquet_rows(path)
        elif path.suffix == ".json":
            raw = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(raw, list):
                raise DataError(f"{path}: expected a JSON list of rows, found {type(raw).__name__}")
        else:
            yield from _jsonl_rows(path)
            return
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); is the file cut off?") from error
    for number, row in enumerate(raw, start=1):
        where = f"{path}, row {number}"
        yield where, _checked_mapping(where, row)


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{where}: not valid JSON ({error.msg} at column {error.colno}); is the line cut off?"
                ) from error
            yield where, _checked_mapping(where, row)


def _checked_mapping(where: str, row: object) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _parquet_rows(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: reading parquet needs pyarrow: pip install 'srl-swe[eval]', or convert the file to .jsonl"
        ) from error
    try:
        rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error
    return rows


def _validated(kind: type[_RowKind], row: Mapping[str, Any], where: str) -> _RowKind:
    try:
        return kind.model_validate(dict(row))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        found = "nothing" if first["type"] == "missing" else repr(first["input"])[:200]
        more = f" ({error.error_count() - 1} more fields are wrong)" if error.error_count() > 1 else ""
        raise DataError(
            f"{where}, instance {row.get('instance_id', '(without id)')}: field `{field}`: {first['msg']};"
            f" found {found}{more}"
        ) from error


def _from_swebench(row: _SwebenchRow) -> Instance:
    return Instance(
        instance_id=row.instance_id,
        repo=row.repo,
        base_commit=row.base_commit,
        problem_statement=row.problem_statement,
        environment=InstanceEnvironment(
            image=row.image, activate=_activation(row.eval_script), network=tuple(row.network)
        ),
        tests=InstanceTests(
            script=row.eval_script,
            parser=row.log_parser,
            fail_to_pass=tuple(row.FAIL_TO_PASS),
            pass_to_pass=tuple(row.PASS_TO_PASS),
            timeout_s=SWEBENCH_TIMEOUT_S,
            eval_type=row.eval_type,
        ),
        gold_patch=_with_newline(row.patch),
        difficulty=row.difficulty or "",
    )


def _activation(eval_script: str) -> str:
    """Return the script's lines before its first `cd` that set the shell up, such as a conda activation."""
    lines: list[str] = []
    for line in eval_script.splitlines():
        if line.startswith("cd "):
            break
        if line and not line.startswith(("#", "set ")):
            lines.append(line)
    return "\n".join(lines)


def _from_sdist(row: _SdistRow, where: str) -> Instance:
    if row.log_parser not in _PARSERS:
        raise DataError(
            f"{where}, instance {row.instance_id}: field `log_parser`: expected one of {sorted(_PARSERS)},"
            f" found {row.log_parser!r}"
        )
    recipe = SdistRecipe(
        package=row.package.name,
        version=row.package.version,
        sdist_filename=row.package.sdist_filename,
        sdist_sha256=row.package.sha256,
        requirements=tuple(row.pip_requirements),
        install_command=row.install_cmd,
        bug_patch=_with_newline(row.bug_patch),
        hidden_paths=tuple(row.f2p_test_files),
    )
    slowest_s = max([row.timings.bug_s, *row.timings.gold_s])
    return Instance(
        instance_id=row.instance_id,
        repo=row.repo,
        base_commit="",
        problem_statement=row.problem_statement,
        environment=InstanceEnvironment(
            image=instance_image_name(recipe, row.workdir),
            workdir=row.workdir,
            recipe=recipe,
            network=tuple(row.network),
        ),
        tests=InstanceTests(
            script=_script(row.workdir, row.test_cmd),
            parser=_PARSERS[row.log_parser],
            fail_to_pass=tuple(row.FAIL_TO_PASS),
            pass_to_pass=tuple(row.PASS_TO_PASS),
            timeout_s=max(MIN_SDIST_TIMEOUT_S, SDIST_TIMEOUT_FACTOR * slowest_s),
            restore_paths=_restore_paths(row, where),
            restore_image=package_image_name(recipe, row.workdir),
        ),
        gold_patch=_with_newline(row.patch),
        difficulty=row.difficulty or "",
    )


def _script(workdir: str, test_cmd: str) -> str:
    """Return an evaluation script in the style of SWE-bench v5; the exit code stands behind the end marker,
    where `swebench.harness.grading.get_logs_eval` compares it with the parsed outcomes."""
    return (
        "#!/bin/bash\n"
        "set -uxo pipefail\n"
        f"cd {shlex.quote(workdir)}\n"
        ": '>>>>> Start Test Output'\n"
        f"{test_cmd}\n"
        "SWEBENCH_TEST_EXIT_CODE=$?\n"
        ": '>>>>> End Test Output'\n"
        'echo ">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE"\n'
    )


def _restore_paths(row: _SdistRow, where: str) -> tuple[str, ...]:
    """Return the files that hold tests, each replaced by its whole tests folder where it lies in one.

    Example: "tests/a/test_x.py" gives "tests"; "pkg/test_y.py" gives itself.
    """
    files = [*row.test_files, *row.f2p_test_files]
    files += [test.split("::", 1)[0] for test in (*row.FAIL_TO_PASS, *row.PASS_TO_PASS) if ".py::" in test]
    paths = set()
    for file in files:
        try:
            parts = PurePosixPath(_inside_tree(file)).parts
        except ValueError as error:
            raise DataError(
                f"{where}, instance {row.instance_id}: FAIL_TO_PASS or PASS_TO_PASS: the file of a test {error};"
                f" found {file!r}"
            ) from error
        depth = next((i for i, part in enumerate(parts[:-1]) if part in _TEST_FOLDERS), len(parts) - 1)
        paths.add("/".join(parts[: depth + 1]))
    return tuple(sorted(paths))


def _with_newline(patch: str) -> str:
    return patch if patch.endswith("\n") else patch + "\n"
