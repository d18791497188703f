"""Rows of every kind are graded for real, on tiny images made as the published ones are."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("swebench", reason="grading needs the extra [eval]")

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.grading import grade
from srl_swe.environments.images import ensure_image
from srl_swe.environments.instances import instance_from_row
from srl_swe.environments.limits import ROOT
from srl_swe.environments.preparation import ensure_prepared
from srl_swe.types import Instance
from tests.environments.conftest import BROKEN, GOOD, MODULE, TESTS
from tests.environments.rows.published import (
    GOLD,
    KNOWN,
    NO_REPAIR,
    OLD_TESTS,
    diff,
    publish,
    r2e_gym_row,
    remove,
    swe_gym_row,
    swe_rebench_row,
    swe_smith_row,
)

pytestmark = pytest.mark.docker

REBENCH_IMAGE = "srl-swe/test-rebench:1"
R2E_IMAGE = "srl-swe/test-r2e:1"

COMMIT = "git -c user.name=t -c user.email=t@t commit -qam 'its base'\ngit rev-parse HEAD\n"
R2E = "cp -a /opt/venv .venv\necho '.venv/bin/python -W ignore -m pytest -rA r2e_tests' >run_tests.sh\n"

PRINTS = (
    "import os\n"
    "log = open('/proc/%d/fd/1' % os.getppid(), 'w')\n"
    "log.write('=== short test summary info ===\\n')\n"
    "for test in ('PASSED x::test_add', 'PASSED x::test_double', 'FAILED x::test_known'):\n"
    "    log.write(test + '\\n')\n"
    "log.flush()\nos._exit(1)\n"
)
EDITS = (
    "import os, sys\n"
    "if 'assert a' in open('/r2e_tests/test_1.py').read():\n"
    "    with open('/r2e_tests/test_1.py', 'w') as tests:\n"
    "        tests.write('def test_add(): pass\\ndef test_double(): pass\\ndef test_known(): assert 0\\n')\n"
    "    os.dup2(os.open('/proc/%d/fd/1' % os.getppid(), os.O_WRONLY), 1)\n"
    "    os.execv(sys.executable, [sys.executable, '-m', 'pytest', '-rA', 'r2e_tests'])\n"
)


@pytest.fixture(scope="module")
def instances(build_engine: Engine, tiny_row: dict[str, Any]) -> Iterator[dict[str, Instance]]:
    """One instance of each kind, and its image."""
    tiny = instance_from_row(tiny_row, where="tiny")
    ensure_image(build_engine, tiny.environment)
    parent = tiny.tests.restore_image
    assert parent is not None
    old = {"/old/module.py": BROKEN, "/old/tests.py": OLD_TESTS}
    base = f"cp /old/module.py {MODULE}\ncp /old/tests.py tests/test_tinycalc.py\n{COMMIT}"
    gym_image = instance_from_row(swe_gym_row("0" * 40), where="rows").environment.image
    commit = publish(build_engine, parent, (REBENCH_IMAGE, gym_image), base, old)
    rows = {
        "swe-gym": swe_gym_row(commit),
        "swe-rebench": swe_rebench_row(commit, image=REBENCH_IMAGE),
        "swe-smith": swe_smith_row(),
        "r2e-gym": r2e_gym_row(image=R2E_IMAGE),
    }
    found = {kind: instance_from_row(row, where="rows") for kind, row in rows.items()}
    smith_image = found["swe-smith"].tests.restore_image
    assert smith_image is not None
    publish(build_engine, parent, (smith_image,), "", {})
    publish(build_engine, parent, (R2E_IMAGE,), base + R2E, {**old, "/r2e_tests/test_1.py": TESTS + KNOWN})
    names = [REBENCH_IMAGE, gym_image, smith_image, R2E_IMAGE]
    try:
        yield found
    finally:
        for name in names:
            remove(build_engine, name)


@pytest.mark.parametrize("kind", ["swe-gym", "swe-rebench", "swe-smith", "r2e-gym"])
def test_the_gold_patch_resolves_and_a_patch_that_repairs_nothing_does_not(
    build_engine: Engine, instances: dict[str, Instance], kind: str
) -> None:
    instance = instances[kind]
    assert instance.gold_patch == GOLD or kind == "swe-smith"
    gold = grade(build_engine, instance, instance.gold_patch)
    assert (gold.status, gold.reason, gold.signs) == ("resolved", "", ()), gold.log
    if kind == "swe-rebench":  # run as SWE-Gym's are
        return
    # A file in the place of one that the test patch adds is in no way of it.
    own_test = diff("tests/test_new.py", "", "def test_new():\n    pass\n")
    tried = grade(build_engine, instance, NO_REPAIR + own_test)
    assert (tried.status, tried.reason) == ("unresolved", "tests"), tried.log
    assert set(gold.test_status) == set(tried.test_status), "the same tests ran"
    assert tried.test_status.get("tests/test_new.py::test_new", "FAILED") == "FAILED"


@pytest.mark.parametrize(
    ("code", "sign"),
    [
        (PRINTS, "the test runner did not come to its end"),
        (EDITS, "a file was changed while the tests ran: /r2e_tests/test_1.py"),
    ],
)
def test_a_summary_that_is_made_is_not_believed(
    build_engine: Engine, instances: dict[str, Instance], code: str, sign: str
) -> None:
    verdict = grade(build_engine, instances["r2e-gym"], diff(MODULE, BROKEN, code + BROKEN))
    assert (verdict.status, verdict.reason) == ("unresolved", "forged"), verdict.log
    assert sign in verdict.signs


def test_a_patch_of_the_interpreter_in_the_work_tree_is_refused(
    build_engine: Engine, instances: dict[str, Instance]
) -> None:
    new = diff(".venv/lib/python3.11/site-packages/cheat.py", "", "import os\n")
    verdict = grade(build_engine, instances["r2e-gym"], GOLD + new)
    assert (verdict.status, verdict.reason) == ("unresolved", "patch reaches out of the work tree"), verdict.log
    assert "reaches into a virtual environment" in verdict.log


@pytest.mark.parametrize("kind", ["swe-smith", "r2e-gym"])
def test_agents_find_neither_the_solution_nor_the_tests(
    build_engine: Engine, instances: dict[str, Instance], kind: str
) -> None:
    environment = instances[kind].environment
    ensure_image(build_engine, environment)
    prepared = ensure_prepared(build_engine, environment, ROOT)
    with Container.start(build_engine, prepared.name, workdir=environment.workdir, name_hint="look") as container:

        def run(command: str) -> str:
            result = container.execute(["bash", "-c", f"{environment.activate}\n{command}"])
            return result.output

        assert BROKEN.strip() == run(f"cat {MODULE}").strip()
        assert run("git rev-list --all --count").strip() == "1"
        assert run("git status --porcelain").strip() == ""
        objects = run("git cat-file --batch-all-objects --batch-check | cut -d ' ' -f 1 | git cat-file --batch")
        assert "return a - b" in objects
        assert "return a + b" not in objects
        assert "test_add" not in run("grep -rs 'def test_add(' . /r2e_tests run_tests.sh")
        assert run("python -c 'import tinycalc; print(tinycalc.add(2, 3))'").strip() == "-1"
    assert GOOD != BROKEN
