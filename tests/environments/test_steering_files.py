"""Which files steer tests, and what of a pyproject.toml is kept."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.environments.patching import touched_parts
from srl_swe.environments.steering_files import merge_pyproject, steers_tests


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("conftest.py", True),
        ("./conftest.py", True),
        ("/testbed/src/a/conftest.py", True),
        ("conftest.cpython-311-x86_64-linux-gnu.so", True),
        ("conftest/__init__.py", True),
        ("src/sitecustomize/__init__.py", True),
        ("a.egg-info/entry_points.txt", True),
        ("src/cheat.pth", True),
        ("tests/runtests.py", True),
        ("bin/test", True),
        ("src/bin/test", False),
        ("tests/test_conftest.py", False),
        ("my_conftest.py", False),
        ("docs/conftest.py.md", False),
        ("src/config.py", False),
        ("pyproject.toml.bak", False),
        ("", False),
    ],
)
def test_which_files_steer_tests(path: str, expected: bool) -> None:
    assert steers_tests(path) == expected


PYTEST = "[tool.pytest.ini_options]\naddopts = '-x'\n"


@pytest.mark.parametrize(
    ("before", "patched", "merged"),
    [
        # What steers comes back, all else stays.
        (f"[project]\nname = 'a'\n{PYTEST}", "[project]\nname = 'b'\n", f"[project]\nname = 'b'\n{PYTEST}"),
        ("[project]\nname = 'a'\n", f"[project]\nname = 'b'\n{PYTEST}", "[project]\nname = 'b'\n"),
        ("", PYTEST, ""),
        (
            "[project.entry-points.pytest11]\na = 'a'\n",
            "[project.entry-points.pytest11]\na = 'b'\n[project.entry-points.x]\nc = 'd'",
            "[project.entry-points.x]\nc = 'd'\n[project.entry-points.pytest11]\na = 'a'\n",
        ),
        (
            "[tool.coverage.run]\na = 1\n",
            "[tool.coverage.report]\na = 2\n[tool.x]\n",
            "[tool.x]\n[tool.coverage.run]\na = 1\n",
        ),
        # Other ways to write the same tables cannot be taken apart for sure.
        ("", "[tool]\npytest.ini_options.addopts = '-p cheat'\n", None),
        ("", "tool = {pytest = {ini_options = {addopts = '-p cheat'}}}\n", None),
        ("", "[tool.'pytest'.ini_options]\naddopts = '-p cheat'\n", ""),
        ("", "no toml", None),
        ("no toml", "", None),
        ("", "x = '''\n[tool.pytest.ini_options]\n'''\n", None),
    ],
)
def test_pyproject(before: str, patched: str, merged: str | None) -> None:
    assert merge_pyproject(before, patched) == merged


PARTS = (
    "[project]\nname = 'a'\n",
    "[tool.x]\ny = 1\n",
    "[tool.x]\ny = 2\n",
    PYTEST,
    PYTEST.replace("-x", "-p cheat"),
    "[tool.coverage]\na = 1\n",
    "[[tool.z]]\nb = 1\n",
    "# a comment\n",
    "tool.pytest.a = 1\n",
    "[tool]\npytest = 1\n",
)
TABLES = st.lists(st.sampled_from(PARTS), max_size=4).map("".join)


@given(TABLES, TABLES)
def test_a_merged_pyproject_steers_as_before(before: str, patched: str) -> None:
    merged = merge_pyproject(before, patched)
    if merged is None:
        return
    was, now = tomllib.loads(before).get("tool", {}), tomllib.loads(merged).get("tool", {})
    assert [now.get(name) for name in ("pytest", "coverage")] == [was.get(name) for name in ("pytest", "coverage")]
    wanted = tomllib.loads(patched).get("tool", {})
    assert [now.get(name) for name in ("x", "z")] == [wanted.get(name) for name in ("x", "z")]


def test_the_paths_of_a_patch() -> None:
    patch = (
        "diff --git a/a b.py b/a b.py\n--- a/a b.py\n+++ b/a b.py\n@@ -1 +1 @@\n-x\n+y\n"
        "diff --git a/old.cfg b/new.cfg\nsimilarity index 100%\nrename from old.cfg\nrename to new.cfg\n"
        "diff --git a/empty b/empty\nnew file mode 100644\nindex e69de29..e69de29\n"
    )
    assert touched_parts(patch) == {"a b.py": "-x\n+y\n", "old.cfg": "", "new.cfg": "", "empty": ""}
    assert touched_parts("--- a/x.py\t2020\n+++ b/y.py\t2020\n@@ -1 +1 @@\n-1\n+2\n").keys() == {"x.py", "y.py"}
    assert touched_parts("") == {}
