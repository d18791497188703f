"""SWE-Gym rows: SWE-bench's first columns on eleven other repositories, each with an image of its own.

The rows do not say how tests are run; that is known here by repository. Data set: SWE-Gym/SWE-Gym on the hub.
The installation that SWE-Gym's own harness repeats before the tests is left out: its images have every package
installed in place, so that the work tree is what is tested.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from srl_swe.environments.rows.fields import has, name_of, validated
from srl_swe.environments.rows.patched import PatchedRow, patched_instance
from srl_swe.environments.rows.scripts import PatchedTests, read_patched_tests
from srl_swe.errors import DataError
from srl_swe.types import Instance


@dataclass(frozen=True, kw_only=True, slots=True)
class _Runner:
    """How a repository's tests are run and read."""

    command: str
    parser: str = "parse_log_pytest"
    before: tuple[str, ...] = ()


_IN_ONE_PROCESS = "pytest -n0 -rA"
_MYPY = "python/mypy"
_RUNNERS = {
    "bokeh/bokeh": _Runner(command="pytest -rA -n0"),
    "conan-io/conan": _Runner(command=_IN_ONE_PROCESS, before=("export PYTHONPATH=${PYTHONPATH:-}:$(pwd)",)),
    "dask/dask": _Runner(command=f"{_IN_ONE_PROCESS} --color=no"),
    "facebookresearch/hydra": _Runner(command="pytest -rA --tb=long"),
    "getmoto/moto": _Runner(command=_IN_ONE_PROCESS),
    "iterative/dvc": _Runner(command="pytest -rA"),
    "modin-project/modin": _Runner(command=_IN_ONE_PROCESS),
    "pandas-dev/pandas": _Runner(command="pytest -rA --tb=long"),
    "project-monai/monai": _Runner(command="pytest -rA"),
    "pydantic/pydantic": _Runner(
        command="pytest -rA --tb=short -vv -o console_output_style=classic --no-header", parser="parse_log_pytest_v2"
    ),
    _MYPY: _Runner(command=_IN_ONE_PROCESS),
}
"""Of SWE-Gym's fork of SWE-bench (SWE-Gym/SWE-Bench-Fork @242429c), by repository in lower case."""


def is_swe_gym(row: Mapping[str, Any]) -> bool:
    """Tell a SWE-Gym row by its columns and its repository: none of these is in a set of SWE-bench that has tests."""
    return (
        has(row, "test_patch", "base_commit", "FAIL_TO_PASS")
        and not has(row, "install_config")
        and str(row.get("repo", "")).lower() in _RUNNERS
    )


def read_swe_gym(raw: Mapping[str, Any], where: str) -> Instance:
    """Turn a SWE-Gym row into an instance.

    Raises:
        DataError: a field is missing or wrong, or the test patch brings no tests.
    """
    row = validated(PatchedRow, raw, where)
    runner = _RUNNERS[row.repo.lower()]
    patch = read_patched_tests(row.test_patch)
    selection = _selection(row.repo.lower(), patch)
    if not selection:
        raise DataError(f"{name_of(raw, where)}: field `test_patch`: expected files of tests, found only data")
    return patched_instance(
        row,
        patch,
        image=f"xingyaoww/sweb.eval.x86_64.{row.instance_id.replace('__', '_s_')}:latest".lower(),
        command=f"{runner.command} {selection}",
        parser=runner.parser,
        before=runner.before,
    )


def _selection(repo: str, patch: PatchedTests) -> str:
    """Return what of the tests is run. mypy's are cases in data files, chosen by name."""
    cases = re.findall(r"\[case (\w[^\]\s\"'$`\\]*)\]", patch.text) if repo == _MYPY else []
    if cases:
        return '-k "' + " or ".join(dict.fromkeys(cases)) + '"'
    return patch.arguments
