"""What the kinds of rows share: field types, checks, and errors that name file, row and field."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from srl_swe.environments.allow_list import AllowList
from srl_swe.errors import DataError

SWEBENCH_TIMEOUT_S = 1800.0
"""swebench 5.0.2 `run_evaluation --timeout`."""

CONDA_ACTIVATION = "source /opt/miniconda3/bin/activate\nconda activate testbed"
"""How a shell finds the interpreter in images that are made as SWE-bench's are."""

TESTBED = "/testbed"
_TEST_FOLDERS = ("tests", "test", "testing")


def _test_ids(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def inside_tree(path: str) -> str:
    """Return a path of the work tree in its plain form; ValueError where it leads out of it or into .git."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or pure.parts[0] == ".git":
        raise ValueError("must be a relative path inside the work tree")
    return str(pure)


def absolute(path: str) -> str:
    """Return an absolute path in its plain form; ValueError where it is not one."""
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or len(pure.parts) < 2:
        raise ValueError("must be an absolute path below /")
    return str(pure)


def _allow_list(hosts: list[str]) -> list[str]:
    AllowList(hosts)  # raises ConfigError, a ValueError
    return hosts


NonEmpty = Annotated[str, Field(min_length=1)]
TestIds = Annotated[list[str], BeforeValidator(_test_ids)]
TreePath = Annotated[str, AfterValidator(inside_tree)]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")]
Hosts = Annotated[list[str], AfterValidator(_allow_list)]


class Row(BaseModel):
    """Columns of every kind but R2E-Gym's."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    instance_id: NonEmpty
    repo: NonEmpty
    network: Hosts = []
    problem_statement: str
    patch: NonEmpty
    FAIL_TO_PASS: TestIds
    PASS_TO_PASS: TestIds
    difficulty: str | None = None


_RowKind = TypeVar("_RowKind", bound=BaseModel)


def validated(kind: type[_RowKind], row: Mapping[str, Any], where: str) -> _RowKind:
    """Check a row's fields.

    Raises:
        DataError: a field is missing or wrong.
    """
    try:
        return kind.model_validate(dict(row))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        found = "nothing" if first["type"] == "missing" else repr(first["input"])[:200]
        more = f" ({error.error_count() - 1} more fields are wrong)" if error.error_count() > 1 else ""
        raise DataError(f"{name_of(row, where)}: field `{field}`: {first['msg']}; found {found}{more}") from error


def has(row: Mapping[str, Any], *columns: str) -> bool:
    """Tell whether a row has all of these columns; files that hold several kinds fill what a row lacks with nulls."""
    return all(row.get(column) is not None for column in columns)


def name_of(row: Mapping[str, Any], where: str) -> str:
    """Return how errors name a row."""
    return f"{where}, instance {row.get('instance_id', '(without id)')}"


def with_newline(patch: str) -> str:
    """Return a patch that ends its last line."""
    return patch if patch.endswith("\n") else patch + "\n"


def places_of_tests(files: list[str], name: str) -> tuple[str, ...]:
    """Return the files that hold tests, each replaced by its whole tests folder where it lies in one.

    Example: "tests/a/test_x.py" gives "tests"; "pkg/test_y.py" gives itself. `name` is the row's, for errors.

    Raises:
        DataError: a path leads out of the work tree.
    """
    paths = set()
    for file in files:
        try:
            parts = PurePosixPath(inside_tree(file)).parts
        except ValueError as error:
            raise DataError(
                f"{name}: FAIL_TO_PASS or PASS_TO_PASS: the file of a test {error}; found {file!r}"
            ) from error
        depth = next((i for i, part in enumerate(parts[:-1]) if part in _TEST_FOLDERS), len(parts) - 1)
        paths.add("/".join(parts[: depth + 1]))
    return tuple(sorted(paths))
