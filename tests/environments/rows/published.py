"""Rows of our own in the published schemas, on the tiny package, and images made as the published ones are."""

import difflib
import json
from typing import Any

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import PARENT_LABEL
from tests.environments.conftest import BROKEN, GOOD, MODULE, TESTS

KNOWN = "\n\ndef test_known():\n    assert add(1, 1) == 3\n"
OLD_TESTS = TESTS.replace("def test_add():\n    assert add(2, 3) == 5\n\n\n", "")
NEW_TEST = "from tinycalc import add\n\n\ndef test_new():\n    assert add(1, 1) == 2\n"
STATEMENT = "add(2, 3) returns -1"


CONDA = r"""
mkdir -p /opt/miniconda3/bin
printf 'conda() { [ "$1" = activate ] && export PATH=/opt/venv/bin:$PATH; }\n' >/opt/miniconda3/bin/activate
cd /testbed
git init -q -b main
git add -A -f .
git -c user.name=t -c user.email=t@t commit -qm 'the package'
"""


def diff(path: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        f"a/{path}" if before else "/dev/null",
        f"b/{path}",
    )
    return f"diff --git a/{path} b/{path}\n{'' if before else 'new file mode 100644' + chr(10)}" + "".join(lines)


GOLD = diff(MODULE, BROKEN, GOOD)
NO_REPAIR = diff(MODULE, BROKEN, BROKEN + "# tried\n")


def _swe_bench_columns(base_commit: str) -> dict[str, Any]:
    return {
        "base_commit": base_commit,
        "patch": GOLD,
        "test_patch": diff("tests/test_new.py", "", NEW_TEST) + diff("tests/test_tinycalc.py", OLD_TESTS, TESTS),
        "problem_statement": STATEMENT,
        "hints_text": "",
        "version": "5.0",
        "FAIL_TO_PASS": ["tests/test_tinycalc.py::test_add", "tests/test_new.py::test_new"],
        "PASS_TO_PASS": ["tests/test_tinycalc.py::test_double"],
    }


def swe_gym_row(base_commit: str) -> dict[str, Any]:
    return {"instance_id": "iterative__dvc-0", "repo": "iterative/dvc", **_swe_bench_columns(base_commit)}


def swe_rebench_row(base_commit: str, *, image: str) -> dict[str, Any]:
    config = {
        "python": "3.11",
        "install": "python -m pip --version",
        "test_cmd": "pytest -rA --color=no",
        "log_parser": "parse_log_pytest",
        "pre_install": None,
        "pip_packages": ["pytest"],
        "env_vars": None,
    }
    return {
        "instance_id": "owner__tinycalc-1",
        "repo": "owner/tinycalc",
        "docker_image": image,
        "install_config": config,
        **_swe_bench_columns(base_commit),
    }


def swe_smith_row() -> dict[str, Any]:
    return {
        "instance_id": "owner__tinycalc.0a1b2c3d.func_basic__abcdefgh",
        "repo": "swesmith/owner__tinycalc.0a1b2c3d",
        "image_name": "swebench/swesmith.x86_64.owner_1776_tinycalc.0a1b2c3d",
        "patch": diff(MODULE, GOOD, BROKEN),
        "FAIL_TO_PASS": ["tests/test_tinycalc.py::test_add"],
        "PASS_TO_PASS": ["tests/test_tinycalc.py::test_double"],
        "problem_statement": STATEMENT,
    }


def r2e_gym_row(*, image: str) -> dict[str, Any]:
    def changed(path: str, before: str, after: str) -> dict[str, Any]:
        return {
            "header": {"file": {"path": path}, "misc_line": None},
            "is_binary_file": False,
            "old_file_content": before,
            "new_file_content": after,
            "hunks": [],
        }

    commit = {"file_diffs": [changed(MODULE, BROKEN, GOOD), changed("tests/test_tinycalc.py", OLD_TESTS, TESTS)]}
    return {
        "repo_name": "tinycalc",
        "docker_image": image,
        "commit_hash": "c" * 40,
        "parsed_commit_content": json.dumps(commit),
        "problem_statement": f"[ISSUE]\n{STATEMENT}\n[/ISSUE]",
        "expected_output_json": json.dumps({"test_add": "PASSED", "test_double": "PASSED", "test_known": "FAILED"}),
    }


def publish(engine: Engine, parent: str, names: tuple[str, ...], setup: str, files: dict[str, str]) -> str:
    """Keep what a shell text does to an image as others, and return its last line."""
    with Container.start(engine, parent, name_hint="publish") as container:
        container.write_files({path: text.encode() for path, text in files.items()})
        result = container.execute(["bash", "-ec", CONDA + setup], workdir="/testbed")
        assert result.exit_code == 0, result.output
        for name in names:
            container.commit(name, labels={})
    return result.output.strip().rpartition("\n")[2]


def remove(engine: Engine, name: str) -> None:
    """Remove an image and those that were made of it."""
    image = engine.find_image(name)
    for child in engine.list_images(f"{PARENT_LABEL}={image.id}" if image else "none"):
        for grandchild in engine.list_images(f"{PARENT_LABEL}={child.id}"):
            engine.remove_image(grandchild.id)
        engine.remove_image(child.id)
    engine.remove_image(name)
