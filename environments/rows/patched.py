"""Rows of SWE-bench's first columns, whose tests are brought by a patch and run in a published image.

Left out: what says how the tests are run, which differs from kind to kind (`swe_gym`, `swe_rebench`).
"""

from collections.abc import Sequence

from srl_swe.environments.rows.fields import (
    CONDA_ACTIVATION,
    SWEBENCH_TIMEOUT_S,
    TESTBED,
    Commit,
    NonEmpty,
    Row,
    with_newline,
)
from srl_swe.environments.rows.scripts import PatchedTests, patched_script
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests


class PatchedRow(Row):
    """The columns that these kinds share."""

    base_commit: Commit
    test_patch: NonEmpty


def patched_instance(
    row: PatchedRow, patch: PatchedTests, *, image: str, command: str, parser: str, before: Sequence[str]
) -> Instance:
    """Return the instance; `command` runs the tests, after the lines of `before`."""
    return Instance(
        instance_id=row.instance_id,
        repo=row.repo,
        base_commit=row.base_commit,
        problem_statement=row.problem_statement,
        environment=InstanceEnvironment(image=image, activate=CONDA_ACTIVATION, network=tuple(row.network)),
        tests=InstanceTests(
            script=patched_script(
                TESTBED, command, patch, base_commit=row.base_commit, activation=CONDA_ACTIVATION, before=before
            ),
            parser=parser,
            fail_to_pass=tuple(row.FAIL_TO_PASS),
            pass_to_pass=tuple(row.PASS_TO_PASS),
            timeout_s=SWEBENCH_TIMEOUT_S,
        ),
        gold_patch=with_newline(row.patch),
        difficulty=row.difficulty or "",
    )
