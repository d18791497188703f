"""Verdicts: good and bad patches, hostile ones, and failures that are nobody's patch."""

import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("swebench", reason="grading needs the extra [eval]")

from srl_swe.environments.engine import Engine
from srl_swe.environments.grading import grade
from srl_swe.environments.images import ensure_image
from srl_swe.environments.instances import instance_from_row
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.official_rules import judge_log, require_rules
from srl_swe.errors import DataError
from srl_swe.types import Instance

Row = dict[str, Any]
Diff = Callable[[str, str, str], str]
MODULE = "src/tinycalc/__init__.py"
BROKEN = 'def add(a, b):\n    """Return the sum."""\n    return a - b\n\n\ndef double(a):\n    return 2 * a\n'
GOOD = BROKEN.replace("a - b", "a + b")
LOG = ": '>>>>> Start Test Output'\n{}\n: '>>>>> End Test Output'\n>>>>> Test Exit Code: {}\n"


@pytest.fixture
def tiny(tiny_row: Row) -> Instance:
    return instance_from_row(tiny_row, where="")


@pytest.fixture
def v5(build_engine: Engine, tiny: Instance) -> Instance:
    """The same instance as a SWE-bench v5 row: the script brings the hidden test itself."""
    test = (
        "from tinycalc import add, double\n"
        "def test_add(): assert add(2, 3) == 5\n"
        "def test_double(): assert double(4) == 8"
    )
    script = (
        "#!/bin/bash\nset -uxo pipefail\ncd /testbed\ngit status\n"
        f"cat > tests/test_tinycalc.py <<'EOF_1'\n{test}\nEOF_1\n"
        ": '>>>>> Start Test Output'\npython -m pytest -rA tests/test_tinycalc.py\n: '>>>>> End Test Output'\n"
    )
    row = {
        "instance_id": "srl-swe__tinycalc-2",
        "repo": "srl-swe/tinycalc",
        "base_commit": "HEAD",
        "patch": tiny.gold_patch,
        "test_patch": "",
        "problem_statement": "add(2, 3) returns -1",
        "FAIL_TO_PASS": '["tests/test_tinycalc.py::test_add"]',
        "PASS_TO_PASS": '["tests/test_tinycalc.py::test_double"]',
        "image": ensure_image(build_engine, tiny.environment),
        "eval_script": script,
        "log_parser": "parse_log_pytest",
        "eval_type": "pass_and_fail",
    }
    return instance_from_row(row, where="")


@pytest.mark.parametrize(
    ("lines", "exit_code", "resolved"),
    [
        ("PASSED tests/test_tinycalc.py::test_add\nPASSED tests/test_tinycalc.py::test_double", 0, True),
        ("XFAIL tests/test_tinycalc.py::test_add\nSKIPPED tests/test_tinycalc.py::test_double", 0, True),
        ("SKIPPED tests/test_tinycalc.py::test_add\nPASSED tests/test_tinycalc.py::test_double", 0, False),
        ("PASSED tests/test_tinycalc.py::test_add", 0, False),
        ("PASSED tests/test_tinycalc.py::test_add\nPASSED tests/test_tinycalc.py::test_double", 1, False),
        ("", 0, False),
    ],
)
def test_the_official_rules_judge_a_log(tiny: Instance, lines: str, exit_code: int, resolved: bool) -> None:
    assert judge_log(tiny, LOG.format(lines, exit_code)).resolved is resolved


def test_a_log_without_an_end_marker_is_not_resolved(tiny: Instance) -> None:
    log = LOG.format("PASSED tests/test_tinycalc.py::test_add\nPASSED tests/test_tinycalc.py::test_double", 0)
    assert not judge_log(tiny, log.replace("End", "No")).resolved


def test_importing_the_rules_leaves_the_process_as_it_was(tiny: Instance) -> None:
    before = dict(os.environ), resource.getrlimit(resource.RLIMIT_NOFILE), Path.cwd()
    require_rules(tiny)
    assert (dict(os.environ), resource.getrlimit(resource.RLIMIT_NOFILE), Path.cwd()) == before


@pytest.mark.parametrize(("field", "value"), [("parser", "parse_log_nothing"), ("eval_type", "best_of")])
def test_an_unknown_parser_or_rule_is_a_data_error(tiny: Instance, field: str, value: str) -> None:
    with pytest.raises(DataError, match=value):
        require_rules(replace(tiny, tests=replace(tiny.tests, **{field: value})))


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["tiny", "v5"])
def test_gold_empty_and_reversed_gold(
    build_engine: Engine, kind: str, request: pytest.FixtureRequest, diff: Diff
) -> None:
    instance: Instance = request.getfixturevalue(kind)
    gold = grade(build_engine, instance, instance.gold_patch)
    assert (gold.status, gold.reason) == ("resolved", "")
    assert gold.test_status == dict.fromkeys(
        ["tests/test_tinycalc.py::test_add", "tests/test_tinycalc.py::test_double"], "PASSED"
    )
    empty = grade(build_engine, instance, " \n")
    assert (empty.status, empty.reason, empty.log) == ("unresolved", "empty patch", "")
    reverse = grade(build_engine, instance, diff(MODULE, GOOD, BROKEN))
    assert (reverse.status, reverse.reason) == ("unresolved", "tests")
    assert reverse.test_status["tests/test_tinycalc.py::test_add"] == "FAILED"


@pytest.mark.docker
def test_a_patch_that_breaks_another_test_is_unresolved(build_engine: Engine, tiny: Instance, diff: Diff) -> None:
    verdict = grade(build_engine, tiny, diff(MODULE, BROKEN, GOOD.replace("2 * a", "3 * a")))
    assert (verdict.status, verdict.reason) == ("unresolved", "tests")
    assert verdict.test_status["tests/test_tinycalc.py::test_add"] == "PASSED"


@pytest.mark.docker
def test_a_patch_with_shifted_context_applies_by_a_later_try(build_engine: Engine, tiny: Instance) -> None:
    patch = (
        f"--- a/{MODULE}\n+++ b/{MODULE}\n@@ -1,3 +1,3 @@\n def add(a, b):\n"
        '     """Return their sum."""\n-    return a - b\n+    return a + b'
    )
    assert grade(build_engine, tiny, patch).status == "resolved"


@pytest.mark.docker
@pytest.mark.parametrize(
    "patch", ["nonsense", "--- a/none.py\n+++ b/none.py\n@@ -1 +1 @@\n-x\n+y\n", "\ud800", "\x00\n"]
)
def test_a_patch_that_does_not_apply(build_engine: Engine, tiny: Instance, patch: str) -> None:
    verdict = grade(build_engine, tiny, patch)
    assert (verdict.status, verdict.reason) == ("unresolved", "patch does not apply")
    assert "failed: patch" in verdict.log


@pytest.mark.docker
def test_an_endless_loop_is_a_timeout_and_keeps_its_log(build_engine: Engine, tiny: Instance, diff: Diff) -> None:
    loop = BROKEN.replace("    return a - b", "    while True:\n        pass")
    verdict = grade(build_engine, replace(tiny, tests=replace(tiny.tests, timeout_s=4)), diff(MODULE, BROKEN, loop))
    assert (verdict.status, verdict.reason) == ("unresolved", "timeout")
    assert "Start Test Output" in verdict.log
    assert verdict.duration_s < 30


@pytest.mark.docker
def test_tests_that_take_all_memory_are_unresolved(build_engine: Engine, tiny: Instance, diff: Diff) -> None:
    hog = BROKEN.replace("    return a - b", "    return [bytearray(1 << 24) for _ in range(1000)]")
    limits = ContainerLimits(memory_bytes=128 << 20)
    verdict = grade(build_engine, tiny, diff(MODULE, BROKEN, hog), limits=limits)
    assert (verdict.status, verdict.reason) == ("unresolved", "out of memory")


HOOK = (
    "import pytest\n\n@pytest.hookimpl(hookwrapper=True)\ndef pytest_runtest_makereport(item, call):\n"
    "    outcome = yield\n    outcome.get_result().outcome = 'passed'\n"
)
QUIT = (
    "import os\nfor name in ('add', 'double'):\n    print('PASSED tests/test_tinycalc.py::test_' + name, flush=True)\n"
    "os._exit(0)\n"
)


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["tiny", "v5"])
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("conftest.py", HOOK),
        ("conftest.py", QUIT),
        ("src/sitecustomize.py", QUIT),
        ("pytest.ini", "[pytest]\naddopts = --deselect tests/test_tinycalc.py::test_add\n"),
    ],
)
def test_files_that_steer_the_test_run_have_no_effect(
    build_engine: Engine, kind: str, path: str, text: str, request: pytest.FixtureRequest, diff: Diff
) -> None:
    instance: Instance = request.getfixturevalue(kind)
    verdict = grade(build_engine, instance, diff(path, "", text))
    assert (verdict.status, verdict.reason) == ("unresolved", "tests")
    with_fix = grade(build_engine, instance, diff(path, "", text) + instance.gold_patch)
    assert with_fix.status == "resolved"


@pytest.mark.docker
def test_edited_tests_have_no_effect(build_engine: Engine, tiny: Instance, diff: Diff) -> None:
    forged = "def test_add(): pass\ndef test_double(): pass\n"
    verdict = grade(
        build_engine, tiny, diff("tests/test_tinycalc.py", "", forged) + diff("tests/__init__.py", "", "1\n")
    )
    assert (verdict.status, verdict.reason) == ("unresolved", "tests")


@pytest.mark.docker
def test_a_protected_file_that_the_gold_patch_adds_stays(build_engine: Engine, tiny: Instance, diff: Diff) -> None:
    empty_file = "diff --git a/pkg/conftest.py b/pkg/conftest.py\nnew file mode 100644\nindex 0000000..e69de29\n"
    gold = tiny.gold_patch + diff("setup.cfg", "", "[metadata]\nname = tinycalc\n") + empty_file
    script = tiny.tests.script.replace(
        "cd /testbed\n", "cd /testbed\ntest -f setup.cfg && test -f pkg/conftest.py || exit 1\n"
    )
    instance = replace(tiny, gold_patch=gold, tests=replace(tiny.tests, script=script))
    assert grade(build_engine, instance, gold).status == "resolved"


@pytest.mark.docker
def test_code_that_ends_the_script_is_unresolved(build_engine: Engine, tiny: Instance, diff: Diff) -> None:
    killer = BROKEN.replace("    return a - b", "    import os\n    os.kill(os.getppid(), 9)\n    os._exit(0)")
    verdict = grade(build_engine, tiny, diff(MODULE, BROKEN, killer))
    assert (verdict.status, verdict.reason) == (
        "unresolved",
        "tests ended the evaluation script, exit code 137",
    )


@pytest.mark.docker
def test_a_script_that_never_comes_to_the_tests_is_invalid(build_engine: Engine, tiny: Instance) -> None:
    broken = replace(tiny, tests=replace(tiny.tests, script="echo no such thing; exit 7\n"))
    verdict = grade(build_engine, broken, tiny.gold_patch)
    assert verdict.status == "invalid"
    assert "exit code 7" in verdict.reason
    assert "no such thing" in verdict.reason


@pytest.mark.docker
def test_a_container_that_is_taken_away_is_tried_once_more(build_engine: Engine, tiny: Instance) -> None:
    script = tiny.tests.script.replace("cd /testbed\n", "cd /testbed\nsleep 2\n")
    slow = replace(tiny, instance_id="taken-away", tests=replace(tiny.tests, script=script))
    removed = threading.Event()

    def take_away() -> None:
        while not removed.is_set():
            for row in build_engine.client.api.containers(filters={"name": "grade-taken-away"}):
                if build_engine.client.api.top(row["Id"])["Processes"][1:]:  # its script runs
                    build_engine.remove(row["Id"])
                    removed.set()
            time.sleep(0.05)

    thread = threading.Thread(target=take_away)
    thread.start()
    verdict = grade(build_engine, slow, tiny.gold_patch)
    thread.join()
    assert (verdict.status, verdict.reason) == ("resolved", "")
    assert verdict.duration_s > 2


@pytest.mark.docker
def test_a_missing_image_is_invalid(build_engine: Engine, v5: Instance) -> None:
    gone = replace(v5, environment=replace(v5.environment, image="localhost:9/srl-swe/none:1"))
    verdict = grade(build_engine, gone, v5.gold_patch)
    assert verdict.status == "invalid"
    assert verdict.reason.startswith("ImageError: the image localhost:9/srl-swe/none:1")
