"""SWE-bench v5 rows, which carry image and evaluation script themselves."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from srl_swe.environments.rows.fields import SWEBENCH_TIMEOUT_S, NonEmpty, Row, has, validated, with_newline
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests


class _SwebenchRow(Row):
    base_commit: NonEmpty
    image: NonEmpty
    eval_script: NonEmpty
    log_parser: NonEmpty
    eval_type: Annotated[str, Field(pattern="^(pass_and_fail|fail_only)$")] = "pass_and_fail"


def is_swebench(row: Mapping[str, Any]) -> bool:
    """Tell a v5 row by its columns."""
    return has(row, "eval_script", "image")


def is_older_swebench(row: Mapping[str, Any]) -> bool:
    """Tell a row of an older schema: the columns of v5 without those that say how its tests are run."""
    return has(row, "test_patch", "base_commit") and not is_swebench(row)


def read_swebench(raw: Mapping[str, Any], where: str) -> Instance:
    """Turn a v5 row into an instance. Raises DataError where a field is missing or wrong."""
    row = validated(_SwebenchRow, raw, where)
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
        gold_patch=with_newline(row.patch),
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
