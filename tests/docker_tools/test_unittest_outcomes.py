"""The grader's hook into unittest, in the Python that is installed here: what it says, and that it leaves no trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("swebench", reason="grading needs the extra [eval]")

from srl_swe.environments.official_rules import parse_log, parse_outcomes
from srl_swe.environments.outcome_channel import RunnerRecords, channel_files, read_records
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests

KEY = "a" * 64
TESTS = """
import os, sys, unittest

class Case(unittest.TestCase):
    def test_ok(self): pass
    def test_named(self):
        "A test with a name: it passes"
    def test_bad(self): self.fail("no")
    def test_error(self): raise ValueError
    @unittest.skip("not here")
    def test_skipped(self): pass
    @unittest.expectedFailure
    def test_expected(self): self.fail("no")
    @unittest.expectedFailure
    def test_unexpected(self): pass
    def test_parts(self):
        for number in range(3):
            with self.subTest(number=number): self.assertLess(number, 2)
    def test_parts_that_pass(self):
        for number in range(3):
            with self.subTest(number=number): pass
    def test_runs_another(self):
        class Inner(unittest.TestCase):
            def test_bad(self): self.fail("inner")
        tests = unittest.defaultTestLoader.loadTestsFromTestCase(Inner)
        result = unittest.TextTestRunner(stream=open(os.devnull, "w")).run(tests)
        self.assertEqual(len(result.failures), 1)
    def test_prints(self): print("something", flush=True)
    def test_no_trace(self):
        self.assertFalse([path for path in sys.path if "grader" in path])
        self.assertNotIn("grader", os.environ["PYTHONPATH"])
        self.assertEqual(sys.modules["sitecustomize"].MARK, "the environment's own")

@unittest.skip("all of it")
class Skipped(unittest.TestCase):
    def test_one(self): pass

class Broken(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise ValueError
    def test_one(self): pass
"""
RUNTESTS = """
import sys, unittest
class Result(unittest.TextTestResult):
    def addSuccess(self, test):
        super().addSuccess(test)
tests = unittest.defaultTestLoader.loadTestsFromName("test_a")
result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(tests)
sys.exit(len(result.failures) + len(result.errors) > 0)
"""
UNITTEST = ["-m", "unittest", "-v", "test_a"]


def run(folder: Path, *, tests: str = TESTS, arguments: list[str] | None = None, key: str = KEY) -> RunnerRecords:
    """Run tests as an evaluation script does, and return what came over the channel."""
    grader, work, site = (folder / name for name in ("grader", "work", "site"))
    for path, content in channel_files(str(grader), []).items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)
    if key:
        (grader / "key").write_text(key)
    work.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text('MARK = "the environment\'s own"\n')
    (work / "test_a.py").write_text(tests)
    (work / "runtests.py").write_text(RUNTESTS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
    environment["PYTHONPATH"] = f"{grader}/unittest:{site}"
    command = 'printf "key %s\\n" "$0" >&9; "$@" >"$LOG" 2>&1; echo "exit $?" >&9'
    call = [sys.executable, *(UNITTEST if arguments is None else arguments)]
    with (folder / "channel").open("wb") as channel:
        subprocess.run(
            ["bash", "-c", f"exec 9>&{channel.fileno()}; {command}", KEY, *call],
            cwd=work,
            env=environment | {"LOG": str(folder / "log")},
            pass_fds=(channel.fileno(),),
            check=True,
        )
    return read_records((folder / "channel").read_bytes())


def kept(outcomes: dict[str, str]) -> dict[str, str]:
    return {test: outcome for test, outcome in outcomes.items() if outcome in ("PASSED", "SKIPPED")}


@pytest.mark.parametrize("arguments", [UNITTEST, ["runtests.py"]])
def test_what_passes_in_the_log_is_what_the_runner_says(tmp_path: Path, arguments: list[str]) -> None:
    records = run(tmp_path, arguments=arguments)
    log = (tmp_path / "log").read_text()
    assert (records.began, records.loaded, records.ended, records.signs) == (True, True, True, ()), log
    assert (records.runner_exit_code, records.script_exit_codes) == (None, (1,))
    instance = django_instance()
    said = kept(parse_outcomes(instance, records.outcomes, as_unittest=True))
    in_log = kept(parse_log(instance, log))
    # The parser takes the line before an "ok" of its own for the test's name as well.
    assert said == in_log, log
    words = {test.split(" (")[0]: outcome for test, outcome in records.outcomes}
    assert words == {
        "test_ok": "PASSED",
        "test_named": "PASSED",
        "test_bad": "FAILED",
        "test_error": "ERROR",
        "test_skipped": "SKIPPED",
        "test_expected": "XFAIL",
        "test_unexpected": "XPASS",
        "test_parts": "FAILED",
        "test_parts_that_pass": "PASSED",
        "test_runs_another": "PASSED",
        "test_prints": "PASSED",
        "test_no_trace": "PASSED",
        "test_one": "SKIPPED",
        "setUpClass": "ERROR",
    }, log
    assert not (tmp_path / "grader" / "key").exists()


def django_instance() -> Instance:
    tests = InstanceTests(script="", parser="parse_log_django", fail_to_pass=(), pass_to_pass=())
    return Instance(
        instance_id="one",
        repo="a/b",
        base_commit="",
        problem_statement="",
        environment=InstanceEnvironment(image=""),
        tests=tests,
        gold_patch="",
    )


def test_a_runner_that_does_not_end_says_so(tmp_path: Path) -> None:
    tests = "import os, unittest\nclass A(unittest.TestCase):\n    def test_a(self): os._exit(0)\n"
    records = run(tmp_path, tests=tests)
    assert (records.loaded, records.ended, records.outcomes, records.script_exit_codes) == (True, False, (), (0,))


@pytest.mark.parametrize(
    ("code", "sign"),
    [
        ("unittest.TestCase.run = lambda self, result=None: result.addSuccess(self)", "unittest.case.TestCase.run"),
        ("unittest.TextTestResult.addFailure = unittest.TextTestResult.addSuccess", "unittest.runner.TextTestResult"),
        ("unittest.TestResult.addSuccess = print", "unittest.result.TestResult.addSuccess"),
        ("unittest.TestCase._callTestMethod = lambda self, method: None", "unittest.case.TestCase._callTestMethod"),
    ],
)
def test_a_changed_runner_is_told(tmp_path: Path, code: str, sign: str) -> None:
    tests = f"import unittest\n{code}\nclass A(unittest.TestCase):\n    def test_a(self): self.fail()\n"
    records = run(tmp_path, tests=tests)
    log = (tmp_path / "log").read_text()
    assert any(found.startswith(f"the test runner was changed: {sign}") for found in records.signs), log
    assert ("a test that must fail did not" in records.signs) == ("TestCase" in sign)


def test_without_a_key_it_is_silent(tmp_path: Path) -> None:
    records = run(tmp_path, key="")
    assert (records.loaded, records.outcomes, records.signs) == (False, (), ())
    assert "FAILED" in (tmp_path / "log").read_text()
