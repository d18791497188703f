"""Rows of every kind become instances; rows that cannot be graded are named with what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from srl_swe.environments import official_rules
from srl_swe.environments.exact_outcomes import as_summary, is_exact, parse_summary
from srl_swe.environments.instances import instance_from_row, load_instances
from srl_swe.environments.outcome_channel import runs_pytest
from srl_swe.environments.rows.scripts import read_patched_tests
from srl_swe.errors import DataError
from srl_swe.types import DerivedRecipe, Instance
from tests.environments.rows.published import r2e_gym_row, swe_gym_row, swe_rebench_row, swe_smith_row

Row = dict[str, Any]


def read(row: Row) -> Instance:
    return instance_from_row(row, where="rows, row 1")


def test_swe_gym_is_run_in_its_own_image_by_its_own_command() -> None:
    instance = read(swe_gym_row("a" * 40))
    assert instance.environment.image == "xingyaoww/sweb.eval.x86_64.iterative_s_dvc-0:latest"
    assert instance.environment.activate == "source /opt/miniconda3/bin/activate\nconda activate testbed"
    lines = instance.tests.script.splitlines()
    assert "pytest -rA tests/test_new.py tests/test_tinycalc.py" in lines
    assert f"git checkout {'a' * 40} tests/test_tinycalc.py" in lines
    assert "rm -f -- tests/test_new.py" in lines
    assert runs_pytest(instance.tests.script)


@pytest.mark.parametrize(
    ("repo", "patch", "command"),
    [
        ("getmoto/moto", "diff --git a/tests/t.py b/tests/t.py\n", "pytest -n0 -rA tests/t.py"),
        ("Project-MONAI/MONAI", "diff --git a/tests/t.py b/tests/t.py\n", "pytest -rA tests/t.py"),
        ("dask/dask", "diff --git a/t.py b/t.py\ndiff --git a/d.csv b/d.csv\n", "pytest -n0 -rA --color=no t.py"),
        (
            "python/mypy",
            "diff --git a/u.test b/u.test\n@@ -1 +1,2 @@\n [case testOne]\n+[case testTwo]\n",
            'pytest -n0 -rA -k "testOne or testTwo"',
        ),
    ],
)
def test_what_swe_gym_runs_of_a_repository(repo: str, patch: str, command: str) -> None:
    instance = read({**swe_gym_row("a" * 40), "repo": repo, "test_patch": patch})
    assert command in instance.tests.script.splitlines()


def test_swe_smith_turns_the_bug_around() -> None:
    row = swe_smith_row()
    instance = read({**row, "PASS_TO_PASS": [*row["PASS_TO_PASS"], "tests/test_other.py::test_never_run"]})
    assert instance.repo == "owner/tinycalc"
    assert "+    return a + b\n" in instance.gold_patch
    assert instance.tests.pass_to_pass == ("tests/test_tinycalc.py::test_double",)
    recipe = instance.environment.recipe
    assert isinstance(recipe, DerivedRecipe)
    assert (
        recipe.parent == instance.tests.restore_image == "swebench/swesmith.x86_64.owner_1776_tinycalc.0a1b2c3d:latest"
    )
    assert recipe.hidden_paths == ("tests/test_tinycalc.py",)
    assert instance.environment.image != read({**row, "patch": row["patch"] + "\n"}).environment.image


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("swesmith.x86_64.owner__tinycalc.0a1b2c3d", "swebench/swesmith.x86_64.owner_1776_tinycalc.0a1b2c3d:latest"),
        ("jyangballin/swesmith.x86_64.a_1776_b.0a1b2c3d", "jyangballin/swesmith.x86_64.a_1776_b.0a1b2c3d:latest"),
        ("localhost:5000/a/b:tag", "localhost:5000/a/b:tag"),
    ],
)
def test_how_swe_smith_names_images(name: str, image: str) -> None:
    assert read({**swe_smith_row(), "image_name": name}).tests.restore_image == image


def test_tornado_is_run_by_unittest() -> None:
    row = {
        **swe_smith_row(),
        "instance_id": "tornadoweb__tornado.d5ac65c1.func_basic__abcdefgh",
        "FAIL_TO_PASS": ["test_get (tornado.test.web_test.GetTest)"],
        "PASS_TO_PASS": ["test_put (tornado.test.web_test.PutTest)"],
    }
    instance = read(row)
    assert (instance.tests.parser, instance.tests.restore_paths) == ("parse_log_django", ("tornado/test",))
    assert instance.tests.pass_to_pass == ("test_put (tornado.test.web_test.PutTest)",)


def test_swe_rebench_takes_command_parser_and_installation_from_the_row() -> None:
    instance = read(swe_rebench_row("b" * 40, image="owner/image:1"))
    assert (instance.environment.image, instance.tests.parser) == ("owner/image:1", "parse_log_pytest")
    lines = instance.tests.script.splitlines()
    install = lines.index("python -m pip --version")
    assert (lines[install - 1], lines[install + 1]) == ("export PIP_NO_INDEX=1", "unset PIP_NO_INDEX")
    with_network = read({**swe_rebench_row("b" * 40, image="i:1"), "network": ["index.example.org"]})
    assert "PIP_NO_INDEX" not in with_network.tests.script
    assert "pytest -rA --color=no tests/test_new.py tests/test_tinycalc.py" in instance.tests.script.splitlines()


def test_r2e_gym_expects_every_outcome() -> None:
    instance = read(r2e_gym_row(image="owner/image:1"))
    assert instance.instance_id == f"tinycalc__{'c' * 40}"
    assert instance.problem_statement == "add(2, 3) returns -1"
    assert dict(instance.tests.expected) == {"test_add": "PASSED", "test_double": "PASSED", "test_known": "FAILED"}
    assert instance.gold_patch.startswith("diff --git a/src/tinycalc/__init__.py b/src/tinycalc/__init__.py\n--- a/src")
    assert "test_tinycalc" not in instance.gold_patch
    assert runs_pytest(instance.tests.script)


def test_r2e_gyms_report_names_what_is_not_as_expected() -> None:
    instance = read(r2e_gym_row(image="owner/image:1"))
    outcomes = {"test_add": "PASSED", "test_double": "FAILED", "test_known": "FAILED"}
    assert official_rules.tests_report(instance, outcomes)["PASS_TO_PASS"] == {
        "success": ["test_add", "test_known"],
        "failure": ["test_double"],
    }
    summary = "\n".join(f"{outcome} r2e_tests/test_1.py::{test}" for test, outcome in outcomes.items())
    log = f": '{official_rules.START_MARKER}'\n=== short test summary info ===\n{summary}\n"
    judged = official_rules.judge_log(instance, f"{log}: '{official_rules.END_MARKER}'\n")
    assert (judged.resolved, judged.test_status) == (False, outcomes)
    right = f"{log}: '{official_rules.END_MARKER}'\n".replace("FAILED r2e_tests/test_1.py::test_d", "PASSED x::test_d")
    assert official_rules.judge_log(instance, right).resolved
    assert not official_rules.judge_log(instance, right.replace(official_rules.END_MARKER, "cut")).resolved


def test_files_of_all_kinds_are_read(tmp_path: Path) -> None:
    rows = [swe_gym_row("a" * 40), swe_smith_row(), swe_rebench_row("b" * 40, image="i:1"), r2e_gym_row(image="i:1")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert [instance.repo for instance in load_instances(path)] == [
        "iterative/dvc",
        "owner/tinycalc",
        "owner/tinycalc",
        "tinycalc",
    ]


def test_a_file_of_several_kinds_has_nulls_where_a_row_lacks_a_column() -> None:
    rows = [swe_gym_row("a" * 40), swe_smith_row(), swe_rebench_row("b" * 40, image="i:1"), r2e_gym_row(image="i:1")]
    columns = {column for row in rows for column in row} | {"eval_script", "image", "package", "bug_patch"}
    for row in rows:
        assert read({**dict.fromkeys(columns), **row}) == read(row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (swe_gym_row("no commit"), r"row 1, instance iterative__dvc-0: field `base_commit`.*found 'no commit'"),
        (swe_gym_row("a" * 40) | {"test_patch": "diff --git a/d.json b/d.json\n"}, "found only data"),
        (swe_smith_row() | {"FAIL_TO_PASS": ["TestGo"]}, r"expected tests of pytest .* found \['TestGo'\]"),
        (swe_smith_row() | {"FAIL_TO_PASS": ["../t.py::a"]}, "must be a relative path inside the work tree"),
        (swe_smith_row() | {"patch": "GIT binary patch\n"}, "field `patch`: the patch changes a binary file"),
        (swe_rebench_row("b" * 40, image=""), "fields `image_name` and `docker_image`: expected an image"),
        (swe_rebench_row("b" * 40, image="i:1") | {"install_config": {"test_cmd": "t"}}, "install_config.log_parser"),
        (r2e_gym_row(image="i:1") | {"expected_output_json": "{}"}, "expected outcomes of tests, found none"),
        (r2e_gym_row(image="i:1") | {"parsed_commit_content": '{"file_diffs": []}'}, "found only tests"),
        (swe_gym_row("a" * 40) | {"repo": "django/django"}, "older schema.*srl-swe eval render FILE --like V5_FILE"),
    ],
)
def test_rows_that_cannot_be_graded(row: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(row)


def test_what_a_test_patch_touches() -> None:
    found = read_patched_tests(
        "diff --git a/old name.py b/old name.py\nindex 1..2 100644\n--- a/old name.py\n+++ b/old name.py\n@@ -1 +1 @@\n"
        "--- /dev/null\n+new file mode 1\n"
        "diff --git a/gone.py b/gone.py\ndeleted file mode 100644\n--- a/gone.py\n+++ /dev/null\n"
        "diff --git a/a.py b/b.py\nsimilarity index 100%\nrename from a.py\nrename to b.py\n"
        "diff --git a/empty.py b/empty.py\nnew file mode 100644\n"
        "diff --git a/data.yml b/data.yml\n--- a/data.yml\n+++ b/data.yml\n"
    )
    assert found.existing == ("old name.py", "gone.py", "a.py", "data.yml")
    assert found.added == ("b.py", "empty.py")
    assert found.directives == ("old name.py", "b.py", "empty.py")
    assert found.arguments == "'old name.py' b.py empty.py"


def test_r2e_gyms_parser_and_rule() -> None:
    log = (
        "PASSED before the summary::x\n==== short test summary info ====\n"
        "\x1b[32mPASSED\x1b[0m r2e_tests/test_1.py::TestA::\x1b[1mtest_b\x1b[0m\n"
        "SKIPPED [1] r2e_tests/test_1.py:3: no\n"
        "FAILED r2e_tests/test_1.py::test_c - assert 1 == 2\n"
        "ERROR r2e_tests/test_2.py - ImportError: PAS\n"
    )
    outcomes = parse_summary(log)
    assert outcomes == {"TestA.test_b": "PASSED", "test_c": "FAILED", "": "ERROR"}
    assert is_exact({**outcomes, "": "FAILED"}, outcomes), "what has no name is counted only"
    assert not is_exact({"TestA.test_b": "PASSED", "test_c": "FAILED"}, outcomes)
    assert not is_exact({**outcomes, "test_c": "PASSED"}, outcomes)
    assert not is_exact({**outcomes, "another": "PASSED"}, outcomes)
    assert parse_summary("no summary, PASSED a::b") == {}
    said = [("r2e_tests/test_1.py::t", "FAILED"), ("r2e_tests/test_2.py::t", "PASSED"), ("x::u", "XFAIL")]
    assert parse_summary(as_summary(said)) == {"t": "FAILED"}
