"""The scripted expert on a small package of our own: its commands run in a real shell with the real tools."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from srl_swe.demo.bugs import Bug, candidate_bugs, replacement
from srl_swe.demo.expert import Answer, ExpertGaveUpError, repair_script
from srl_swe.demo.instances import Repair
from srl_swe.types import Completion

FAR = "    # filler\n" * 120
PADDING = "".join(f"# filler {i}\n" for i in range(60))
SOURCE = f"""\
def double(n):
    return n + n


{PADDING}

def _shift(n, by):
    if by < 1:
        raise ValueError("negative")
    return n + by


class Counter:
    def __init__(self, start=0):
        self.value = start

    def __call__(self):
        self.value = _shift(self.value, 1)
        return self.value


def far(n):
    total = n
{FAR}    return total - 1
"""
TESTS = """\
from pkg.code import Counter, double, far


def test_double():
    assert double(4) == 8


def test_counter():
    count = Counter()
    assert count() == 1
    assert count() == 2


def test_far():
    assert far(3) == 2
"""
Shell = Callable[[str], Answer]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a command in a work tree that holds the package, with `edit` and `python` on the path."""
    tools = tmp_path / "bin"
    tools.mkdir()
    shutil.copy(Path(__file__).parents[2] / "docker" / "edit", tools / "edit")
    (tools / "edit").chmod(0o755)
    (tools / "python").symlink_to(sys.executable)
    tree = tmp_path / "tree"
    (tree / "pkg").mkdir(parents=True)
    (tree / "tests").mkdir()
    (tree / "pkg" / "__init__.py").touch()
    (tree / "pkg" / "code.py").write_text(SOURCE)
    (tree / "tests" / "test_code.py").write_text(TESTS)
    # A virtual environment's python finds its packages only by its own name.
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(tree), *filter(None, sys.path)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
    }

    def run(command: str) -> Answer:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        return Answer(observation=done.stdout, exit_code=done.returncode)

    return run


def bug(old: str, new: str) -> Bug:
    """Return the candidate that turns one line into another."""
    candidates = candidate_bugs(SOURCE, "pkg/code.py", random.Random(0))
    return next(bug for bug in candidates if f"\n-{old}\n+{new}\n" in bug.bug_patch)


def play(shell: Shell, bug: Bug, test: str, tree: Path) -> list[Completion]:
    (tree / "pkg" / "code.py").write_text(bug.broken_source)
    old, new = replacement(bug.broken_source, SOURCE)
    repair = Repair(
        kind=bug.kind,
        path=bug.path,
        class_name=bug.class_name,
        function=bug.function,
        line=bug.line,
        old=old,
        new=new,
    )
    script = repair_script(f"Failing tests in pkg\n\nFAILED {test} - assert 0\n", repair)
    completions = [next(script)]
    while completions[-1].action != "submit":
        completions.append(script.send(shell(completions[-1].action)))
    return completions


def test_the_function_that_the_test_calls_is_found_read_and_repaired(shell: Shell, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    completions = play(shell, bug("    return n + n", "    return n - n"), "tests/test_code.py::test_double", tree)
    assert [completion.action for completion in completions] == [
        "python -m pytest -q --tb=short -rN --disable-warnings tests/test_code.py::test_double",
        "grep -n 'def double(' pkg/code.py",
        "sed -n 1,16p pkg/code.py",
        "edit replace pkg/code.py <<'EOF'\n    return n - n\n=======\n    return n + n\nEOF",
        "python -m pytest -q --tb=short -rN --disable-warnings tests/test_code.py::test_double",
        "submit",
    ]
    assert completions[1].thought == "The error is `assert 0 == 8`. I look for double in pkg/code.py."
    assert completions[3].thought == "The arithmetic operator is wrong: `return n - n` should be `return n + n`."
    assert (tree / "pkg" / "code.py").read_text() == SOURCE


def test_a_traceback_leads_to_the_lines(shell: Shell, tmp_path: Path) -> None:
    broken = bug("    if by < 1:", "    if by < 2:")
    completions = play(shell, broken, "tests/test_code.py::test_counter", tmp_path / "tree")
    assert [completion.action.split()[0] for completion in completions] == ["python", "sed", "edit", "python", "submit"]
    assert "It comes from _shift, line 69 of pkg/code.py." in completions[1].thought


def test_a_test_that_does_not_fail_is_no_start(shell: Shell, tmp_path: Path) -> None:
    with pytest.raises(ExpertGaveUpError, match="does not fail"):
        play(shell, bug("    return n + n", "    return n - n"), "tests/test_code.py::test_far", tmp_path / "tree")


def test_the_bug_must_be_near_its_definition(shell: Shell, tmp_path: Path) -> None:
    broken = bug("    return total - 1", "    return total + 1")
    with pytest.raises(ExpertGaveUpError, match="too far"):
        play(shell, broken, "tests/test_code.py::test_far", tmp_path / "tree")


def test_a_function_that_nothing_names_is_not_found(shell: Shell, tmp_path: Path) -> None:
    broken = bug("    return n + by", "    return n - by")
    with pytest.raises(ExpertGaveUpError, match="not named"):
        play(shell, broken, "tests/test_code.py::test_counter", tmp_path / "tree")
