"""R2E-Gym rows: an image per commit that hides its tests, and the outcome of every one of them.

The agent starts from the image without the tests and what else gives the solution away, as one commit. The tests come
back before they run, by the image's own run_tests.sh. The gold patch is the commit's change of what are no tests.
Data sets on the hub: R2E-Gym/R2E-Gym-Subset, R2E-Gym/R2E-Gym-Lite, R2E-Gym/R2E-Gym-V1.
"""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from srl_swe.environments.diffs import unified_diff
from srl_swe.environments.exact_outcomes import EXACT, PARSER, without_messages
from srl_swe.environments.image_names import derived_image_name
from srl_swe.environments.rows.fields import (
    SWEBENCH_TIMEOUT_S,
    TESTBED,
    Commit,
    Hosts,
    NonEmpty,
    has,
    inside_tree,
    name_of,
    validated,
)
from srl_swe.environments.rows.scripts import plain_script
from srl_swe.errors import DataError
from srl_swe.types import DerivedRecipe, Instance, InstanceEnvironment, InstanceTests

_ACTIVATION = f"export VIRTUAL_ENV={TESTBED}/.venv PATH={TESTBED}/.venv/bin:$PATH"
_TESTS = "/r2e_tests"
_RUN_TESTS = "run_tests.sh"
_HIDDEN = (
    _TESTS,
    "r2e_tests",
    _RUN_TESTS,
    "syn_issue.json",
    "expected_test_output.json",
    "execution_result.json",
    "parsed_commit.json",
    "modified_files.json",
    "modified_entities.json",
)
"""What R2E-Gym takes away from agents (`SKIP_FILES`), and the tests where its images keep them."""
_TEST_FOLDERS = {"tests", "Tests", "test", "Test"}


def _from_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


class _FileInfo(BaseModel):
    path: NonEmpty


class _Header(BaseModel):
    file: _FileInfo
    misc_line: str | None = None


class _FileDiff(BaseModel):
    header: _Header
    is_binary_file: bool = False
    old_file_content: str
    new_file_content: str

    @property
    def is_of_tests(self) -> bool:
        path = PurePosixPath(self.header.file.path)
        return (
            path.name.startswith("test_") or path.name.endswith("_test.py") or not _TEST_FOLDERS.isdisjoint(path.parts)
        )


class _ParsedCommit(BaseModel):
    file_diffs: list[_FileDiff]


class _R2eGymRow(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    instance_id: str | None = None
    repo_name: NonEmpty
    commit_hash: Commit
    docker_image: NonEmpty
    problem_statement: str
    parsed_commit_content: Annotated[_ParsedCommit, BeforeValidator(_from_json)]
    expected_output_json: Annotated[dict[str, str], BeforeValidator(_from_json)]
    network: Hosts = []


def is_r2e_gym(row: Mapping[str, Any]) -> bool:
    """Tell an R2E-Gym row by its columns."""
    return has(row, "docker_image", "expected_output_json")


def read_r2e_gym(raw: Mapping[str, Any], where: str) -> Instance:
    """Turn an R2E-Gym row into an instance.

    Raises:
        DataError: a field is missing or wrong, no outcome is expected, or the commit changes nothing but tests.
    """
    row = validated(_R2eGymRow, raw, where)
    name = name_of(raw, where)
    expected = without_messages(row.expected_output_json)
    if not any(expected):
        raise DataError(f"{name}: field `expected_output_json`: expected outcomes of tests, found none")
    gold_patch = _gold_patch(row.parsed_commit_content, name)
    recipe = DerivedRecipe(parent=row.docker_image, hidden_paths=_HIDDEN)
    return Instance(
        instance_id=row.instance_id or f"{row.repo_name}__{row.commit_hash}",
        repo=row.repo_name,
        base_commit="",
        problem_statement=_issue(row.problem_statement),
        environment=InstanceEnvironment(
            image=derived_image_name(recipe, TESTBED),
            activate=_ACTIVATION,
            recipe=recipe,
            network=tuple(row.network),
        ),
        tests=InstanceTests(
            script=plain_script(
                TESTBED,
                f"bash {_RUN_TESTS}",
                # run_tests.sh names the tests by a path of the work tree.
                [_ACTIVATION, f"rm -rf {TESTBED}/r2e_tests", f"ln -s {_TESTS} {TESTBED}/r2e_tests"],
            ),
            parser=PARSER,
            fail_to_pass=(),
            pass_to_pass=tuple(sorted(test for test in expected if test)),
            timeout_s=SWEBENCH_TIMEOUT_S,
            eval_type=EXACT,
            restore_paths=(_TESTS, _RUN_TESTS),
            restore_image=row.docker_image,
            expected=tuple(sorted(expected.items())),
        ),
        gold_patch=gold_patch,
    )


def _issue(statement: str) -> str:
    found = re.search(r"\[ISSUE\](.*)\[/ISSUE\]", statement, re.DOTALL)
    return found[1].strip() if found else statement


def _gold_patch(commit: _ParsedCommit, name: str) -> str:
    parts = []
    for change in commit.file_diffs:
        before, after = change.old_file_content, change.new_file_content
        if change.is_of_tests or change.is_binary_file or before == after:
            continue
        try:
            path = inside_tree(change.header.file.path)
        except ValueError as error:
            raise DataError(f"{name}: field `parsed_commit_content`: a path {error}") from error
        note = change.header.misc_line or ""
        is_new, is_deleted = note.startswith("new file"), note.startswith("deleted file")
        parts.append(unified_diff(path, None if is_new else before, None if is_deleted else after))
    if not parts:
        raise DataError(f"{name}: field `parsed_commit_content`: expected changes of code, found only tests")
    return "".join(parts)
