"""The test runner's channel: how scripts get it, and what of its records is believed."""

import hashlib
import hmac
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from srl_swe.environments.outcome_channel import RunnerRecords, instrument, read_records, runs_pytest, runs_unittest

START, END = ": '>>>>> Start Test Output'", ": '>>>>> End Test Output'"
KEY = "5" * 64
RECORDS: tuple[list[Any], ...] = (
    ["start"],
    ["outcome", "t.py::a", "PASSED"],
    ["outcome", "t.py::b", "FAILED"],
    ["runner", [], True],
    ["end", 1],
)


def script(tests: str, *, before: str = "") -> str:
    return f"#!/bin/bash\nset -uxo pipefail\ncd /testbed\n{before}\n{START}\n{tests}\n{END}\ngit checkout x\n"


@pytest.mark.parametrize(
    ("tests", "before", "expected"),
    [
        ("pytest -rA tests/test_a.py", "", True),
        ("python -m pytest tests", "", True),
        ("/opt/venv/bin/py.test -k a", "", True),
        ("cd /testbed && LANG=C pytest -n4", "pip install pytest", True),
        ("./tests/runtests.py a", "", False),
        ("bin/test -C a.py", "", False),
        ("tox --current-env -epy39 -v -- tests/test_pytest.py", "", False),
        ("python -m unittest tests.pytest_a", "", False),
        ("cat pytest.ini", "", False),
        ("# pytest tests", "", False),
        ("pytest a\npytest b", "", False),
        ("PYTHONPATH=src pytest a", "", False),
        ("pytest a", "export PYTHONPATH=${PYTHONPATH:-}:$(pwd)", True),
        ("pytest a", "git apply - <<'EOF'\n+PYTHONPATH=src tox\nEOF", True),
        ("pytest a", "export PYTEST_ADDOPTS=-x", False),
        ("env -i pytest a", "", False),
        ("python -I -m pytest a", "", False),
    ],
)
def test_where_the_plugin_gets_in(tests: str, before: str, expected: bool) -> None:
    assert runs_pytest(script(tests, before=before)) == expected


@pytest.mark.parametrize(
    ("tests", "before", "expected"),
    [
        ("./tests/runtests.py --verbosity 2 --parallel 1 a.tests", "", True),
        ("python tests/runtests.py a", "", True),
        ("python -m unittest discover -v tests", "", True),
        ("python -m tornado.test --verbose", "", True),
        ("python -W ignore -m unittest a", "", True),
        ("./tests/runtests.py a\n./tests/runtests.py b", "", False),
        ("./tests/runtests.py a\npytest b", "", False),
        ("./runtests.python a", "", False),
        ("python -m unittest_a", "", False),
        ("# ./tests/runtests.py a", "", False),
        ("python -S -m unittest a", "", False),
        ("./tests/runtests.py a", "export PYTHONPATH=src", False),
        ("pytest -rA tests", "", False),
    ],
)
def test_where_the_hook_into_unittest_gets_in(tests: str, before: str, expected: bool) -> None:
    assert runs_unittest(script(tests, before=before)) == expected


def test_what_is_added_runs_around_the_tests_and_keeps_the_exit_code(tmp_path: Path) -> None:
    """The real scripts of `docker/` are replaced by ones that only say that they ran."""
    for name in ("begin-script", "begin-tests", "file-states"):
        (tmp_path / name).write_text(f'echo "{name} $*" >&9\n')
    text = script("sh -c 'exit 3'").replace("cd /testbed\n", "").replace("git checkout x\n", "echo code $?\n")
    (tmp_path / "eval.sh").write_text(instrument(text, str(tmp_path), "/a b"))
    run = subprocess.run(
        ["bash", "-c", f"bash {tmp_path}/eval.sh 9>{tmp_path}/channel 2>&1"], capture_output=True, text=True, check=True
    )
    assert (tmp_path / "channel").read_text().splitlines() == [
        f"begin-script /a b {tmp_path}",
        f"begin-tests /a b {tmp_path}",
        "exit 3",
        f"file-states after {tmp_path}/watched",
    ]
    plain = subprocess.run(["bash", "-c", f"{{ {text}\n}} 2>&1"], capture_output=True, text=True, check=True)
    assert [line for line in run.stdout.splitlines() if "code" not in line] == [
        line for line in plain.stdout.splitlines() if "code" not in line
    ]


def test_a_script_without_markers_stays_as_it_is() -> None:
    assert instrument("pytest\n", "/f", "/w") == "pytest\n"
    assert instrument(f"{END}\npytest\n{START}\n", "/f", "/w") == f"{END}\npytest\n{START}\n"


@pytest.mark.parametrize("name", ["verified_test", "lite_dev", "multilingual_test", "multimodal_dev"])
def test_published_scripts_take_it(shared_data: Path, name: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [eval]")
    scripts = parquet.read_table(shared_data / "swebench" / f"{name}.parquet").column("eval_script").to_pylist()
    for text in scripts:
        changed = instrument(text, "/f", "/testbed")
        added = [line for line in changed.splitlines() if "/f/" in line]
        assert len(added) == 3, text
        assert [line for line in changed.splitlines() if line not in added] == text.splitlines()
        (tmp_path / "eval.sh").write_text(changed)
        checked = subprocess.run(["bash", "-n", tmp_path / "eval.sh"], capture_output=True, text=True)
        assert checked.stderr == ""


def channel(*records: list[Any], key: str = KEY, numbers: range | None = None, extra: str = "") -> bytes:
    """What a run says that behaves; `extra` lines stand before its exit code."""
    lines = [f"key {KEY}", "before s1 /t.py"]
    for number, record in zip(numbers or range(len(records)), records, strict=True):
        text = json.dumps([number, *record])
        lines.append(f"{hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()} {text}")
    return "\n".join([*lines, *filter(None, [extra]), "exit 1", "after s1 /t.py", ""]).encode()


def test_an_honest_run() -> None:
    assert read_records(channel(*RECORDS)) == RunnerRecords(
        began=True,
        loaded=True,
        outcomes=(("t.py::a", "PASSED"), ("t.py::b", "FAILED")),
        ended=True,
        runner_exit_code=1,
        script_exit_codes=(1,),
        before=("s1 /t.py",),
        after=("s1 /t.py",),
    )
    assert read_records(b"") == RunnerRecords()


OTHER = "something else than the test runner wrote to its channel"
MISSING = "records of the test runner are missing"


@pytest.mark.parametrize(
    ("data", "signs"),
    [
        (channel(*RECORDS, key="6" * 64), (OTHER,)),
        (channel(*RECORDS, extra=f"key {'6' * 64}"), (OTHER,)),
        (channel(*RECORDS, extra="anything"), (OTHER,)),
        (channel(*RECORDS, extra="exit 0"), ("the exit code of the tests was told more than once",)),
        (channel(*RECORDS[1:], numbers=range(1, 5)), (MISSING,)),
        (channel(*RECORDS[:2], *RECORDS[3:], numbers=range(4)), ()),
        (
            channel(*RECORDS, extra="steered ./conftest.py"),
            ("what steers the tests was changed before they began: ./conftest.py",),
        ),
        (channel(["runner", ["a.b"], True]), ("the test runner was changed: a.b",)),
        (channel(["runner", [], False]), ("a test that must fail did not",)),
        (b"\xff\xfe\n" + channel(*RECORDS), (OTHER,)),
    ],
)
def test_signs(data: bytes, signs: tuple[str, ...]) -> None:
    assert read_records(data).signs == signs


def test_nothing_counts_without_the_key() -> None:
    found = read_records(channel(*RECORDS).partition(b"\n")[2])
    assert (found.began, found.loaded, found.outcomes, found.ended) == (False, False, (), False)
