"""The installation before the tests, left out or not: the same verdicts; and where it must run, it does."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("swebench", reason="grading needs the extra [eval]")

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.grading import grade
from srl_swe.environments.images import ensure_image
from srl_swe.environments.instances import instance_from_row
from srl_swe.environments.reinstalling import without_reinstall
from srl_swe.types import Instance, InstanceEnvironment
from tests.environments.conftest import BROKEN, GOOD, MODULE

pytestmark = pytest.mark.docker

IMAGE = "srl-swe/test-in-place:1"
INSTALL = "python -m pip install --no-build-isolation --no-deps -e . --verbose"
SETUP_PY = (
    "from setuptools import setup\n"
    "open('src/tinycalc/_installed.py', 'w').write('NUMBER = 1\\n')\n"
    "setup(name='tinycalc', version='1.0', package_dir={'': 'src'}, packages=['tinycalc'])\n"
)
INSTALL_IN_PLACE = f"""
rm /opt/venv/lib/python3.*/site-packages/tinycalc.pth
git init -q
printf '%s\\n' _installed.py '*.egg-info/' __pycache__/ >.git/info/exclude
{INSTALL}
git add .
git -c user.name=t -c user.email=t@t commit -qm base
"""
USES_WHAT_IS_INSTALLED = GOOD.replace(
    "return a + b", "from tinycalc._installed import NUMBER\n    return a + b * (NUMBER - 1)"
)

Diff = Callable[[str, str, str], str]


@pytest.fixture(scope="module")
def in_place(build_engine: Engine, tiny_row: dict[str, Any]) -> Iterator[Instance]:
    """The tiny instance, installed in place by its image and once more by its script."""
    tiny = instance_from_row(tiny_row, where="tiny")
    ensure_image(build_engine, tiny.environment)
    package = tiny.tests.restore_image
    assert package is not None
    with Container.start(build_engine, package, workdir="/testbed", name_hint="in-place") as container:
        container.write_files({"/testbed/setup.py": SETUP_PY.encode(), f"/testbed/{MODULE}": BROKEN.encode()})
        result = container.execute(["bash", "-ec", INSTALL_IN_PLACE], workdir="/testbed")
        assert result.exit_code == 0, result.output
        container.commit(IMAGE, labels={})
    script = tiny.tests.script.replace(
        "cd /testbed\n", f"cd /testbed\ncat <<'EOF' >/dev/null\n{INSTALL}\nEOF\n{INSTALL}\n"
    )
    try:
        yield replace(
            tiny,
            instance_id="srl-swe__in-place-1",
            environment=InstanceEnvironment(image=IMAGE),
            tests=replace(tiny.tests, script=script, restore_paths=("tests",)),
        )
    finally:
        build_engine.remove_image(IMAGE)


def skipping(instance: Instance) -> Instance:
    return replace(instance, tests=replace(instance.tests, skip_reinstall=True))


@pytest.mark.parametrize(
    ("after", "status"), [(GOOD, "resolved"), (f"{BROKEN}# tried\n", "unresolved")], ids=["gold", "tried"]
)
def test_verdicts_are_the_same(build_engine: Engine, in_place: Instance, diff: Diff, after: str, status: str) -> None:
    patch = diff(MODULE, BROKEN, after)
    usual = grade(build_engine, in_place, patch)
    quick = grade(build_engine, skipping(in_place), patch)
    assert (usual.status, usual.signs, usual.left_out) == (status, (), ()), usual.log
    assert "Successfully installed tinycalc" in usual.log
    assert (quick.status, quick.signs, quick.left_out) == (status, (), (INSTALL,)), quick.log
    assert "Successfully installed" not in quick.log
    assert (quick.reason, quick.test_status) == (usual.reason, usual.test_status)


def test_a_patch_of_setup_py_is_installed_all_the_same(build_engine: Engine, in_place: Instance, diff: Diff) -> None:
    patch = diff("setup.py", SETUP_PY, SETUP_PY.replace("NUMBER = 1", "NUMBER = 2"))
    patch += diff(MODULE, BROKEN, USES_WHAT_IS_INSTALLED)
    instance = skipping(replace(in_place, gold_patch=patch))
    verdict = grade(build_engine, instance, patch)
    assert (verdict.status, verdict.left_out) == ("resolved", ()), verdict.log


def test_what_keeps_the_installation(build_engine: Engine, in_place: Instance, diff: Diff) -> None:
    code = diff(MODULE, BROKEN, GOOD)
    new = diff("src/tinycalc/more.py", "", "x = 1\n")
    left_out = {"code": code, "a module in a package": new, "words": code + diff("CHANGES.rst", "", "better\n")}
    kept = {
        "setup.cfg": diff("setup.cfg", "", "[metadata]\n"),
        "a build script": diff("src/tinycalc/build_tables.py", "", "x = 1\n"),
        "C": diff("src/tinycalc/fast.c", "", "int x;\n"),
        "requirements": diff("requirements.txt", "", "attrs\n"),
        "the version": diff(MODULE, BROKEN, f"{BROKEN}__version__ = '2'\n"),
        "a module where no package is": diff("src/other.py", "", "x = 1\n"),
        "a new package": diff("src/new/__init__.py", "", "x = 1\n"),
        "a quoted path": code + 'diff --git "a/src/\\303\\244.c" "b/src/\\303\\244.c"\n',
        "a path without a prefix": code + "--- /dev/null\n+++ fast.c\n@@ -0,0 +1 @@\n+int x;\n",
        "a binary file": code + "diff --git a/x.py b/x.py\nGIT binary patch\nliteral 0\n",
        "nothing": "",
    }
    with Container.start(build_engine, IMAGE, workdir="/testbed", name_hint="look") as container:
        for name, patch in left_out.items():
            script, lines = without_reinstall(container, in_place, code + patch)
            assert lines == (INSTALL,), name
            assert script == in_place.tests.script.replace(f"EOF\n{INSTALL}\n", "EOF\n")
        for name, patch in kept.items():
            assert without_reinstall(container, in_place, patch) == (in_place.tests.script, ()), name
        for line in (
            "python -m pip install .",
            "python setup.py install",
            "pip install -e . && make",
            "pip install -r requirements.txt",
            "pip install -e git+https://example.org/x",
        ):
            script = in_place.tests.script.replace(INSTALL, line)
            other = replace(in_place, tests=replace(in_place.tests, script=script))
            assert without_reinstall(container, other, code) == (script, ()), line
