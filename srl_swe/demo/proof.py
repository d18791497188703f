"""Whether a candidate is a bug: the package's own tests, before and after, in one container of the pristine package.

A candidate is proven when some tests fail by it, not too many, and others still pass. Rows and text are left to
`srl_swe.demo.instances`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from srl_swe.demo.bugs import Bug
from srl_swe.demo.packages import WORKDIR, DemoPackage
from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.image_names import instance_image_name, package_image_name
from srl_swe.environments.images import ensure_image
from srl_swe.errors import ContainerError
from srl_swe.types import InstanceEnvironment

MAX_FAIL_TO_PASS = 6
MIN_PASS_TO_PASS = 5
TEST_TIMEOUT_S = 10
"""The test files take less than a second; a bug that loops for ever must not hold the demo."""
TEST_MEMORY_KIB = 2 << 20

_STATUS_LINE = re.compile(r"(PASSED|FAILED|ERROR|XFAIL|XPASS) (\S+)(?: - (.*))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What the short summary of one pytest run says."""

    outcomes: Mapping[str, str]
    """Outcome by test id; ids with blanks are left out, as the graders' log parser cuts them."""
    failure_lines: Mapping[str, str]
    """Test id -> its whole line, the error included."""
    duration_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Proven:
    """The tests that prove a bug."""

    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    broken: Summary
    clean: tuple[Summary, Summary]


def read_summary(log: str, duration_s: float) -> Summary | None:
    """Read the short summary that `pytest -rA` prints last; None where there is none."""
    start = log.rfind("short test summary info")
    if start < 0:
        return None
    found = [match for match in map(_STATUS_LINE.match, log[start:].splitlines()) if match]
    whole = [match for match in found if match[2].count("[") == match[2].count("]")]
    return Summary(
        outcomes={match[2]: match[1] for match in whole},
        failure_lines={match[2]: match[0] for match in whole if match[1] in ("FAILED", "ERROR")},
        duration_s=round(duration_s, 2),
    )


def compare(clean: tuple[Summary, Summary], broken: Summary | None) -> Proven | str:
    """Return the tests that prove the bug, or why it is not proven."""
    if broken is None:
        return "time limit or crash"
    first, second = (summary.outcomes for summary in clean)
    stable = sorted(test for test, status in first.items() if status == "PASSED" == second.get(test))
    if any(test not in broken.outcomes for test in stable):
        return "tests disappear"
    fail_to_pass = tuple(test for test in stable if broken.outcomes[test] == "FAILED")
    pass_to_pass = tuple(test for test in stable if broken.outcomes[test] == "PASSED")
    if not fail_to_pass:
        return "no test fails"
    if len(fail_to_pass) > MAX_FAIL_TO_PASS:
        return "too many tests fail"
    if len(pass_to_pass) < MIN_PASS_TO_PASS:
        return "too few tests pass"
    return Proven(fail_to_pass=fail_to_pass, pass_to_pass=pass_to_pass, broken=broken, clean=clean)


class ProvingContainer:
    """A container of a pristine package in which candidates are tried one after the other."""

    def __init__(self, engine: Engine, package: DemoPackage, sources: Mapping[str, str], first: Bug) -> None:
        """`sources` holds the pristine text of every file that gets bugs; `first` is any candidate.

        Raises:
            ContainerError: the image cannot be made or the container not started.
        """
        self._package = package
        self._sources = sources
        self._clean: dict[str, tuple[Summary, Summary]] = {}
        recipe = package.recipe(first.bug_patch)
        # Making the image of any instance makes the package's own image first.
        environment = InstanceEnvironment(image=instance_image_name(recipe, WORKDIR), workdir=WORKDIR, recipe=recipe)
        ensure_image(engine, environment)
        self._container = Container.start(engine, package_image_name(recipe, WORKDIR), workdir=WORKDIR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._container.close()

    def judge(self, bug: Bug) -> Proven | str:
        """Return the tests that prove the bug, or why it is not proven.

        Raises:
            ContainerError: the engine failed, or the pristine package's own tests do not end.
        """
        clean = self._clean_runs(bug.path)
        self._container.write_file(f"{WORKDIR}/{bug.path}", bug.broken_source.encode())
        try:
            broken = self._run_tests(bug.path)
        finally:
            self._container.write_file(f"{WORKDIR}/{bug.path}", self._sources[bug.path].encode())
        return compare(clean, broken)

    def _clean_runs(self, path: str) -> tuple[Summary, Summary]:
        if path not in self._clean:
            first, second = self._run_tests(path), self._run_tests(path)
            if first is None or second is None:
                raise ContainerError(
                    f"{self._package.name} {self._package.version}: the tests of {path} did not end in the pristine"
                    f" package within {TEST_TIMEOUT_S} s; is the machine overloaded?"
                )
            self._clean[path] = (first, second)
        return self._clean[path]

    def _run_tests(self, path: str) -> Summary | None:
        # Without bytecode files: a broken file of the same size within the same second would pass for the last one.
        command = (
            f"ulimit -v {TEST_MEMORY_KIB}; export COLUMNS=160 PYTHONDONTWRITEBYTECODE=1;"
            f" exec timeout -s KILL {TEST_TIMEOUT_S} {self._package.test_command(path)}"
        )
        result = self._container.execute(["bash", "-c", command], timeout_s=TEST_TIMEOUT_S + 5.0)
        return read_summary(result.output, result.duration_s)
