"""The grader's pytest plugin, in the pytest that is installed here: what it says, and that it leaves no trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from srl_swe.environments.outcome_channel import RunnerRecords, read_records

PROGRAMS = Path(__file__).parents[2] / "docker"
KEY = "a" * 64
TESTS = """
import os, sys, unittest
import pytest

def test_ok(): pass
def test_bad(): assert 0

@pytest.mark.parametrize("x", ["a b", "c"])
def test_each(x): pass

@pytest.mark.xfail
def test_expected(): assert 0

@pytest.mark.xfail
def test_unexpected(): pass

@pytest.mark.skip
def test_skipped(): pass

@pytest.fixture
def broken(): raise ValueError
def test_error(broken): pass

@pytest.fixture
def ends_badly():
    yield
    raise ValueError
def test_ends(ends_badly): pass

class Case(unittest.TestCase):
    def test_unit(self): self.assertEqual(1, 1)

def test_no_trace():
    assert not [path for path in sys.path if "plugins" in path]
    assert "PYTEST_ADDOPTS" not in os.environ or "srl_swe" not in os.environ["PYTEST_ADDOPTS"]
    assert not os.path.exists("/proc/self/fd/9") or "channel" not in os.readlink("/proc/self/fd/9")
"""


def run(folder: Path, *, tests: str = TESTS, key: str = KEY) -> RunnerRecords:
    """Run pytest on a file as an evaluation script does, and return what came over the channel."""
    plugins = folder / "grader" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "srl_swe_outcomes.py").write_bytes((PROGRAMS / "pytest-outcomes").read_bytes())
    (plugins / "srl_swe_channel.py").write_bytes((PROGRAMS / "runner-channel").read_bytes())
    if key:
        (folder / "grader" / "key").write_text(key)
    work = folder / "work"
    work.mkdir()
    (work / "test_a.py").write_text(tests)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(plugins), "PYTEST_ADDOPTS": "-p srl_swe_outcomes"}
    command = 'printf "key %s\\n" "$0" >&9; "$@" >"$LOG" 2>&1; echo "exit $?" >&9'
    pytest_call = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "--rootdir", str(work), "."]
    with (folder / "channel").open("wb") as channel:
        subprocess.run(
            ["bash", "-c", f"exec 9>&{channel.fileno()}; {command}", KEY, *pytest_call],
            cwd=work,
            env=environment | {"LOG": str(folder / "log")},
            pass_fds=(channel.fileno(),),
            check=True,
        )
    return read_records((folder / "channel").read_bytes())


def test_outcomes_are_those_of_the_short_summary(tmp_path: Path) -> None:
    records = run(tmp_path)
    log = (tmp_path / "log").read_text()
    assert (records.began, records.loaded, records.ended, records.signs) == (True, True, True, ()), log
    assert (records.runner_exit_code, records.script_exit_codes) == (1, (1,))
    assert dict(records.outcomes) == {
        "test_a.py::test_ok": "PASSED",
        "test_a.py::test_bad": "FAILED",
        "test_a.py::test_each[a b]": "PASSED",
        "test_a.py::test_each[c]": "PASSED",
        "test_a.py::test_expected": "XFAIL",
        "test_a.py::test_unexpected": "XPASS",
        "test_a.py::test_skipped": "SKIPPED",
        "test_a.py::test_error": "ERROR",
        "test_a.py::test_ends": "ERROR",
        "test_a.py::Case::test_unit": "PASSED",
        "test_a.py::test_no_trace": "PASSED",
    }, log
    for test, status in records.outcomes:
        assert f"{status} {test}" in log or status == "SKIPPED"
    assert not (tmp_path / "grader" / "key").exists()


def test_a_fixture_of_a_test_that_needs_another_pytest(tmp_path: Path) -> None:
    """Plugins' own tests start pytest within pytest; that one has no channel and disturbs nothing."""
    tests = (
        "pytest_plugins = ['pytester']\n"
        "def test_inner(pytester):\n    pytester.makepyfile('def test_fails(): assert 0')\n"
        "    pytester.runpytest_inprocess().assert_outcomes(failed=1)\n"
        "    pytester.runpytest_subprocess().assert_outcomes(failed=1)\n"
    )
    records = run(tmp_path, tests=tests)
    assert records.outcomes == (("test_a.py::test_inner", "PASSED"),), (tmp_path / "log").read_text()
    assert (records.ended, records.runner_exit_code, records.signs) == (True, 0, ())


@pytest.mark.parametrize("tests", ["import not_there\n", "def broken(:\n", ""])
def test_a_run_without_tests_still_ends(tmp_path: Path, tests: str) -> None:
    records = run(tmp_path, tests=tests)
    assert (records.loaded, records.ended, records.signs) == (True, True, ())
    assert records.script_exit_codes == (records.runner_exit_code,)


def test_a_runner_that_does_not_end_says_so(tmp_path: Path) -> None:
    records = run(tmp_path, tests="import os\ndef test_a(): pass\ndef test_b(): os._exit(0)\n")
    assert (records.loaded, records.ended, records.script_exit_codes) == (True, False, (0,))
    assert records.outcomes == (("test_a.py::test_a", "PASSED"),)


@pytest.mark.parametrize(
    ("tests", "sign"),
    [
        (
            "import _pytest.runner as r\nr.call_and_report = r.call_and_report\nold = r.runtestprotocol\n"
            "def new(*a, **k): return old(*a, **k)\nr.runtestprotocol = new\ndef test_a(): pass\n",
            "the test runner was changed: _pytest.runner.runtestprotocol",
        ),
        (
            "import unittest\nunittest.TestCase.run = lambda self, result=None: result\ndef test_a(): pass\n",
            "the test runner was changed: unittest.case.TestCase.run",
        ),
        (
            "import pytest\ndef pytest_report_teststatus(): pass\n"
            "@pytest.fixture(autouse=True)\ndef plug(request):\n    import sys\n"
            "    request.config.pluginmanager.register(sys.modules[__name__])\ndef test_a(): pass\n",
            "the test runner was changed: hook pytest_report_teststatus in ",
        ),
    ],
)
def test_a_changed_runner_is_told(tmp_path: Path, tests: str, sign: str) -> None:
    records = run(tmp_path, tests=tests)
    assert any(found.startswith(sign) for found in records.signs), (records, (tmp_path / "log").read_text())


def test_without_a_key_it_is_silent(tmp_path: Path) -> None:
    records = run(tmp_path, tests="def test_a(): assert 0\n", key="")
    assert (records.loaded, records.outcomes, records.signs) == (False, (), ())
    assert "1 failed" in (tmp_path / "log").read_text()
