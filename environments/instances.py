"""Rows of task data sets become `Instance` records.

Tells the kinds of rows apart by their fields, never by the file's name; `rows/` has a reader for each. Leaves out the
look-up of data sets by hub name (`srl_swe.evaluation`) and everything that runs.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from srl_swe.environments.rows.fields import name_of
from srl_swe.environments.rows.r2e_gym import is_r2e_gym, read_r2e_gym
from srl_swe.environments.rows.sdist import is_sdist, read_sdist
from srl_swe.environments.rows.swe_gym import is_swe_gym, read_swe_gym
from srl_swe.environments.rows.swe_rebench import is_swe_rebench, read_swe_rebench
from srl_swe.environments.rows.swe_smith import is_swe_smith, read_swe_smith
from srl_swe.environments.rows.swebench import is_older_swebench, is_swebench, read_swebench
from srl_swe.errors import DataError, MissingExtraError
from srl_swe.types import Instance

_KINDS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any], str], Instance]], ...] = (
    (is_sdist, read_sdist),
    (is_swebench, read_swebench),
    (is_r2e_gym, read_r2e_gym),
    (is_swe_rebench, read_swe_rebench),
    (is_swe_smith, read_swe_smith),
    (is_swe_gym, read_swe_gym),
)
"""(tells a row of the kind by its columns, reads it); the first that knows a row has it."""


def load_instances(path: str | Path) -> list[Instance]:
    """Read every instance of a .jsonl, .json (one list) or .parquet file, in file order.

    Raises:
        DataError: the file is missing, unreadable or empty, a row is not valid, or two rows share an id.
    """
    path = Path(path)
    instances: list[Instance] = []
    place_of: dict[str, str] = {}
    for where, row in read_rows(path):
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
    for is_of_kind, read in _KINDS:
        if is_of_kind(row):
            return read(row, where)
    name = name_of(row, where)
    if is_older_swebench(row):
        raise DataError(
            f"{name}: a SWE-bench row of an older schema, without `image` and `eval_script`. Get the rows of schema v5"
            " (the SWE-bench organisation's current data sets), or fill these in once from a local file of v5 rows:"
            " srl-swe eval render FILE --like V5_FILE --out rows.jsonl"
        )
    raise DataError(
        f"{name}: unknown kind of row; expected a row of SWE-bench v5 (image, eval_script, log_parser…), SWE-Gym (a"
        " repository of its own, test_patch…), SWE-smith (image_name, patch…), SWE-rebench (install_config…), R2E-Gym"
        " (docker_image, expected_output_json…) or of a source distribution (package, bug_patch…), found the fields"
        f" {sorted(map(str, row))}"
    )


def read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (where it stands, for errors; the row) of a .jsonl, .json (one list) or .parquet file.

    Raises:
        DataError: the file is missing, or what is in it cannot be read.
    """
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
