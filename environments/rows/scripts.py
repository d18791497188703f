"""Evaluation scripts in the style of SWE-bench v5, for rows that carry only what is in them.

The exit code stands behind the end marker, where `swebench.harness.grading.get_logs_eval` compares it with the parsed
outcomes.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

_NO_TESTS = (".json", ".png", "csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml")
"""Endings of files in a test patch that are data: SWE-bench 2's NON_TEST_EXTS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchedTests:
    """A patch that brings the tests, and the files it touches."""

    text: str
    existing: tuple[str, ...]
    """Files that the base commit has."""
    added: tuple[str, ...]
    directives: tuple[str, ...]
    """Files to give to the test runner: what is there afterwards, data left out."""

    @property
    def arguments(self) -> str:
        """The directives as words of a shell."""
        return " ".join(map(shlex.quote, self.directives))


def read_patched_tests(text: str) -> PatchedTests:
    r"""Find out which files a git patch touches.

    >>> read_patched_tests("diff --git a/t.py b/t.py\nnew file mode 100644\n--- /dev/null\n+++ b/t.py\n").added
    ('t.py',)
    """
    existing, added, directives = [], [], []
    for part in re.split(r"^(?=diff --git )", text, flags=re.MULTILINE):
        header = re.match(r"diff --git a/(.+?) b/(.+)$", part, flags=re.MULTILINE)
        if header is None:
            continue
        before_hunks = part.partition("\n@@ ")[0]
        if re.search(r"^new file mode |^--- /dev/null$", before_hunks, flags=re.MULTILINE):
            added.append(header[2])
        else:
            existing.append(header[1])
            if header[2] != header[1]:
                added.append(header[2])
        is_deleted = re.search(r"^deleted file mode |^\+\+\+ /dev/null$", before_hunks, flags=re.MULTILINE)
        if not is_deleted and not header[2].endswith(_NO_TESTS):
            directives.append(header[2])
    return PatchedTests(text=text, existing=tuple(existing), added=tuple(added), directives=tuple(directives))


def plain_script(workdir: str, test_cmd: str, before: Sequence[str] = ()) -> str:
    """Return a script that runs `before`, line by line, and then the tests."""
    lines = [
        "#!/bin/bash",
        "set -uxo pipefail",
        *before,
        f"cd {shlex.quote(workdir)}",
        ": '>>>>> Start Test Output'",
        test_cmd,
        "SWEBENCH_TEST_EXIT_CODE=$?",
        ": '>>>>> End Test Output'",
        'echo ">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE"',
    ]
    return "".join(f"{line}\n" for line in lines)


def patched_script(
    workdir: str,
    test_cmd: str,
    test_patch: PatchedTests,
    *,
    base_commit: str,
    activation: str = "",
    before: Sequence[str] = (),
) -> str:
    """Return a script that gives the test patch's files their state of the base commit, applies it, runs the tests.

    A file that the test patch adds is removed first, so that one of the same name in a prediction is in no way of it.
    """
    delimiter = "EOF_TEST_PATCH"
    while delimiter in test_patch.text:
        delimiter += "_"
    reset = []
    if test_patch.added:
        reset.append("rm -f -- " + " ".join(map(shlex.quote, test_patch.added)))
    if test_patch.existing:
        reset.append(f"git checkout {base_commit} " + " ".join(map(shlex.quote, test_patch.existing)))
    lines = [
        *activation.splitlines(),
        f"cd {shlex.quote(workdir)}",
        f"git config --global --add safe.directory {shlex.quote(workdir)}",
        *before,
        *reset,
        f"git apply -v - <<'{delimiter}'\n{test_patch.text}\n{delimiter}",
    ]
    return plain_script(workdir, test_cmd, lines)
