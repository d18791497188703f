"""What the test runner itself says of the tests, over a way that printing does not reach.

The evaluation script is given three lines more. At its start what steers the tests is noted. Before the tests a key is
made and told to us with what has changed by then, and the test runner is made to load `docker/pytest-outcomes` (pytest,
as a plugin) or `docker/unittest-outcomes` (unittest and Django's runtests.py, where Python starts), whose records that
key signs. After the tests comes their exit code. All of it comes over file descriptor 9 as it happens, so nothing
said can be taken back. A record with another signature, out of order, or a second key is a sign of forgery. Left out:
what follows from all this (`forgery.py`).
"""

import hashlib
import hmac
import importlib.resources
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from srl_swe.environments.official_rules import END_MARKER, START_MARKER

MAX_CHANNEL_BYTES = 64 << 20
_PLUGIN = "srl_swe_outcomes"
_CHANNEL = "srl_swe_channel"
_PREPARATIONS = {
    b"steered": "what steers the tests was changed before they began",
    b"installed": "the interpreter's libraries were changed before the tests began",
    b"process": "something else was running when the tests began",
}
"""Words of `docker/begin-tests`, and the signs that they are."""
_MARKER_LINE = r"^[ \t]*(?::|echo)[ \t].*{}.*$"
_RUNS_PYTEST = re.compile(
    r"^(?!\s*#).*(?<![\w./-])(?:\S*/)?(?:pytest|py\.test|run_tests\.sh)(?![\w/-])(?!\.\w)", re.MULTILINE
)
_RUNS_UNITTEST = re.compile(
    r"^(?!\s*#).*(?:(?<![\w./-])(?:\S*/)?runtests\.py(?![\w.-])|\s-m\s+(?:unittest|tornado\.test)(?![\w-]))",
    re.MULTILINE,
)
_OWN_WAY = re.compile(
    r"\bPYTHONPATH=(?![\"']?\$\{PYTHONPATH:-\}:)|\bPYTEST_ADDOPTS=|\btox\b|\benv -i\b|\bpython\S* -[A-Za-z]*[IES]"
)
"""What would keep our hook out. A path that is added to those of PYTHONPATH does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerRecords:
    """What came over the channel of one run of the tests."""

    began: bool = False
    """A key came: the script got to its tests."""
    loaded: bool = False
    """The test runner has loaded our plugin."""
    outcomes: tuple[tuple[str, str], ...] = ()
    """(test, word of pytest's short summary) in the order of the reports; a test may come several times. unittest's
    tests are named as it prints them."""
    ended: bool = False
    """The test runner came to its own end."""
    runner_exit_code: int | None = None
    """What the test runner said its exit code would be; None where it does not know."""
    script_exit_codes: tuple[int, ...] = ()
    """What the script said of the tests' exit code, once unless something is wrong."""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """State and path of each watched file, before and after the tests."""
    signs: tuple[str, ...] = ()
    """What must not be in an honest run."""


def runs_pytest(script: str) -> bool:
    """Tell whether the tests are run by one pytest that our plugin gets into: not behind tox or an environment of the
    script's own making."""
    return len(_RUNS_PYTEST.findall(_tests_of(script))) == 1 and not _OWN_WAY.search(_without_patches(script))


def runs_unittest(script: str) -> bool:
    """Tell whether the tests are run by one program that uses unittest's runner: `python -m unittest`, Django's
    runtests.py, tornado's."""
    tests = _tests_of(script)
    return (
        len(_RUNS_UNITTEST.findall(tests)) == 1
        and not _RUNS_PYTEST.search(tests)
        and not _OWN_WAY.search(_without_patches(script))
    )


def _tests_of(script: str) -> str:
    return script.partition(START_MARKER)[2].partition(END_MARKER)[0]


def _without_patches(script: str) -> str:
    """Return the script's own commands: what a here-document brings is text."""
    return re.sub(r"<<'(\w+)'\n.*?^\1$", "", script, flags=re.DOTALL | re.MULTILINE)


def instrument(script: str, folder: str, workdir: str) -> str:
    """Return the script with the channel's lines in it; a script without marker lines stays as it is.

    Nothing of what is added shows in the log, bash's trace included.
    """
    start = re.search(_MARKER_LINE.format(re.escape(START_MARKER)), script, re.MULTILINE)
    end = re.search(_MARKER_LINE.format(re.escape(END_MARKER)), script, re.MULTILINE)
    if start is None or end is None or end.start() < start.end():
        return script
    where = f"{shlex.quote(workdir)} {folder}"
    first = f"{{ /bin/bash {folder}/begin-script {where}; }} </dev/null >/dev/null 2>&1\n"
    begin = f"/bin/bash {folder}/begin-tests {where}"
    if runs_pytest(script):
        begin += (
            f"; export PYTHONPATH={folder}/plugins${{PYTHONPATH:+:$PYTHONPATH}}"
            f' PYTEST_ADDOPTS="${{PYTEST_ADDOPTS:+$PYTEST_ADDOPTS }}-p {_PLUGIN}"'
        )
    elif runs_unittest(script):
        begin += f"; export PYTHONPATH={folder}/unittest${{PYTHONPATH:+:$PYTHONPATH}}"
    before = f"{{ {begin}; }} </dev/null >/dev/null 2>&1\n"
    tests = script[start.start() : end.start()]
    # A script's own `NAME=$?` must come first, as each command has the next one's `$?`.
    own = re.search(r"^[ \t]*([A-Za-z_]+)=\$\?[ \t]*\n\Z", tests, re.MULTILINE)
    code = f"${own[1]}" if own else "$?"
    after = f'{{ echo "exit {code}"; bash {folder}/file-states after {folder}/watched; }} >&9 2>/dev/null\n'
    return first + script[: start.start()] + before + tests + after + script[end.start() :]


def channel_files(folder: str, watched: Sequence[str]) -> dict[str, bytes]:
    """Return what the channel needs in a container beside what `patching` has brought, by absolute path.

    `watched` are absolute paths of files.
    """
    programs = importlib.resources.files("srl_swe") / "docker"
    return {
        f"{folder}/plugins/{_PLUGIN}.py": (programs / "pytest-outcomes").read_bytes(),
        f"{folder}/plugins/{_CHANNEL}.py": (programs / "runner-channel").read_bytes(),
        f"{folder}/unittest/sitecustomize.py": (programs / "unittest-start").read_bytes(),
        f"{folder}/unittest/{_PLUGIN}.py": (programs / "unittest-outcomes").read_bytes(),
        f"{folder}/unittest/{_CHANNEL}.py": (programs / "runner-channel").read_bytes(),
        f"{folder}/begin-script": (programs / "begin-script").read_bytes(),
        f"{folder}/begin-tests": (programs / "begin-tests").read_bytes(),
        f"{folder}/file-states": (programs / "file-states").read_bytes(),
        f"{folder}/watched": "".join(f"{path}\n" for path in watched if "\n" not in path).encode(),
    }


def read_records(data: bytes) -> RunnerRecords:
    r"""Return what a run's channel said; nothing in it is believed without the key's signature.

    The first line is `key HEX`; then come `before STATE`, the words of `_PREPARATIONS`, `HMAC-SHA256 JSON`,
    `exit CODE` and `after STATE`.
    """
    key = b""
    records: list[list[Any]] = []
    states: dict[bytes, list[str]] = {b"before": [], b"after": []}
    codes: list[int] = []
    signs: list[str] = []
    for raw in data.splitlines():
        word, _, rest = raw.partition(b" ")
        if word == b"key" and not key:
            key = rest
        elif word in states:
            states[word].append(rest.decode(errors="replace"))
        elif word in _PREPARATIONS:
            signs.append(f"{_PREPARATIONS[word]}: {rest.decode(errors='replace')}")
        elif word == b"exit" and re.fullmatch(rb"\d{1,3}", rest):
            codes.append(int(rest))
        elif key and hmac.compare_digest(word, hmac.new(key, rest, hashlib.sha256).hexdigest().encode()):
            records.append(json.loads(rest))
        else:
            signs.append("something else than the test runner wrote to its channel")
    if len(codes) > 1:
        signs.append("the exit code of the tests was told more than once")
    if [record[0] for record in records] != list(range(len(records))):
        signs.append("records of the test runner are missing")
    by_kind = {record[1]: record[2:] for record in records}
    tampered, honest = by_kind.get("runner", ([], True))
    signs += [f"the test runner was changed: {name}" for name in tampered]
    if not honest:
        signs.append("a test that must fail did not")
    return RunnerRecords(
        began=bool(key),
        loaded="start" in by_kind,
        outcomes=tuple((record[2], record[3]) for record in records if record[1] == "outcome"),
        ended="end" in by_kind,
        runner_exit_code=by_kind["end"][0] if "end" in by_kind else None,
        script_exit_codes=tuple(codes),
        before=tuple(states[b"before"]),
        after=tuple(states[b"after"]),
        signs=tuple(dict.fromkeys(signs)),
    )
