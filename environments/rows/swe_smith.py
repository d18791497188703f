"""SWE-smith rows of Python repositories: one image per repository, and a patch that is the bug.

The agent starts from the image with the bug in it and without the files of the tests that must start passing, as one
commit. The gold patch is the bug backwards. Tests come back from the image before they run. Two rules are stricter
than SWE-smith's own: a required test that did not run has failed, and the rest is judged as SWE-bench judges it.
Data set: SWE-bench/SWE-smith on the hub.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from srl_swe.environments.diffs import reverse_patch
from srl_swe.environments.image_names import derived_image_name
from srl_swe.environments.rows.fields import (
    CONDA_ACTIVATION,
    SWEBENCH_TIMEOUT_S,
    TESTBED,
    NonEmpty,
    Row,
    has,
    name_of,
    places_of_tests,
    validated,
    with_newline,
)
from srl_swe.environments.rows.scripts import plain_script
from srl_swe.errors import DataError
from srl_swe.types import DerivedRecipe, Instance, InstanceEnvironment, InstanceTests

_ID = re.compile(r"(?P<owner>[\w.-]+?)__(?P<repo>[\w.-]+)\.(?P<commit>[0-9a-f]{8})\.\w+")
_COMMAND = "pytest --disable-warnings --color=no --tb=no --verbose"
_COMMANDS = {
    "jax-ml/jax": f"{_COMMAND} -n auto",
    "mido/mido": f"{_COMMAND} -rs -c /dev/null",
    "pydantic/pydantic": f"/root/.local/bin/uv run {_COMMAND}",
    "python/mypy": "pytest --color=no",
}
"""`test_cmd` of SWE-smith's Python profiles (SWE-bench/SWE-smith @032f1a1), where it is not the usual one."""

_TORNADO = "tornadoweb/tornado"
"""The one repository whose tests unittest runs, all of them."""
_TORNADO_TESTS = "tornado/test"


class _SweSmithRow(Row):
    image_name: NonEmpty
    test_cmd: str | None = None


def is_swe_smith(row: Mapping[str, Any]) -> bool:
    """Tell a SWE-smith row by its columns and the form of its id."""
    return (
        has(row, "image_name")
        and not has(row, "test_patch")
        and not has(row, "eval_script")
        and _ID.fullmatch(str(row.get("instance_id", ""))) is not None
    )


def read_swe_smith(raw: Mapping[str, Any], where: str) -> Instance:
    """Turn a SWE-smith row into an instance.

    Raises:
        DataError: a field is missing or wrong, the bug cannot be reversed, or the tests are not pytest's.
    """
    row = validated(_SweSmithRow, raw, where)
    name = name_of(raw, where)
    found = _ID.fullmatch(row.instance_id)
    assert found is not None, "is_swe_smith has looked"
    repo = f"{found['owner']}/{found['repo']}"
    is_pytest = all(".py::" in test for test in row.FAIL_TO_PASS)
    if not row.FAIL_TO_PASS or is_pytest == (repo == _TORNADO):
        raise DataError(
            f"{name}: field `FAIL_TO_PASS`: expected tests of pytest (path/to/test.py::name), found"
            f" {row.FAIL_TO_PASS[:3]}; only SWE-smith's Python repositories can be graded here"
        )
    try:
        gold_patch = reverse_patch(with_newline(row.patch))
    except DataError as error:
        raise DataError(f"{name}: field `patch`: {error}") from error
    # As SWE-smith does: what other files hold is not run.
    files = sorted({test.split("::", 1)[0] for test in row.FAIL_TO_PASS}) if is_pytest else []
    required = [test for test in row.PASS_TO_PASS if not is_pytest or test.split("::", 1)[0] in files]
    image = _image(row.image_name)
    recipe = DerivedRecipe(parent=image, bug_patch=with_newline(row.patch), hidden_paths=tuple(files))
    return Instance(
        instance_id=row.instance_id,
        repo=repo,
        base_commit="",
        problem_statement=row.problem_statement,
        environment=InstanceEnvironment(
            image=derived_image_name(recipe, TESTBED),
            activate=CONDA_ACTIVATION,
            recipe=recipe,
            network=tuple(row.network),
        ),
        tests=InstanceTests(
            script=plain_script(
                TESTBED,
                _command(repo, files, row.test_cmd) if is_pytest else "python -m tornado.test --verbose",
                CONDA_ACTIVATION.splitlines(),
            ),
            parser="parse_log_pytest" if is_pytest else "parse_log_django",
            fail_to_pass=tuple(row.FAIL_TO_PASS),
            pass_to_pass=tuple(required),
            timeout_s=SWEBENCH_TIMEOUT_S,
            restore_paths=places_of_tests(files, name) if is_pytest else (_TORNADO_TESTS,),
            restore_image=image,
        ),
        gold_patch=gold_patch,
        difficulty=row.difficulty or "",
    )


def _command(repo: str, files: Sequence[str], of_row: str | None) -> str:
    """Return the command that runs files of tests; its summary has a line for each test, which is what parsers and
    outcome channel read alike."""
    return f"{of_row or _COMMANDS.get(repo, _COMMAND)} -rA {' '.join(map(shlex.quote, files))}"


def _image(name: str) -> str:
    """Return the image's full name; early rows leave out the owner and write "__".

    >>> _image("swesmith.x86_64.encode__starlette.db5063c2")
    'swebench/swesmith.x86_64.encode_1776_starlette.db5063c2:latest'
    """
    full = name if "/" in name else "swebench/" + name.replace("__", "_1776_")
    return full if ":" in full.rpartition("/")[2] else f"{full}:latest"
