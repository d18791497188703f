"""The reversed gold patch must undo the gold patch, judged by git itself."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from srl_swe.errors import DataError
from srl_swe.evaluation.controls import reverse_patch


def git(folder: Path, *arguments: str, stdin: bytes | None = None) -> bytes:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, check=True, timeout=60).stdout


def test_git_applies_the_reverse(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "edited.py").write_bytes(
        b"one\n-- two\nthree\r\nform\x0cfeed\n" + b"same\n" * 20 + b"last without newline"
    )
    (tmp_path / "deleted.txt").write_text("--- a/looks/like\n+++ a/header\n@@ -1 +1 @@\n")
    (tmp_path / "moved.txt").write_text("".join(f"line {number}\n" for number in range(30)))
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "before")
    before = git(tmp_path, "rev-parse", "HEAD^{tree}")
    (tmp_path / "edited.py").write_bytes(
        b"zero\none\n++ two\nform\x0cfeeds\n" + b"same\n" * 20 + b"last with newline\n"
    )
    (tmp_path / "deleted.txt").unlink()
    (tmp_path / "created.txt").write_text("new\n")
    (tmp_path / "moved.txt").rename(tmp_path / "renamed.txt")
    (tmp_path / "renamed.txt").chmod(0o755)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "after")
    patch = git(tmp_path, "diff", "-M", "HEAD~", "HEAD").decode("utf-8", "surrogateescape")
    assert "rename from" in patch
    git(tmp_path, "apply", "--index", stdin=reverse_patch(patch).encode("utf-8", "surrogateescape"))
    assert git(tmp_path, "write-tree") == before
    assert reverse_patch(reverse_patch(patch)).count("\n") == patch.count("\n")


def test_real_bug_patches_are_the_reverse_of_their_gold_patches(shared_data: Path) -> None:
    def net_change(patch: str) -> Counter[str]:
        # Two diffs of the same trees may pair their lines differently; what is added less what is removed is the same.
        content = [line for line in patch.splitlines() if not line.startswith(("--- ", "+++ "))]
        net = Counter(line[1:] for line in content if line.startswith("+"))
        net.subtract(line[1:] for line in content if line.startswith("-"))
        return Counter({line: count for line, count in net.items() if count})

    rows = [json.loads(line) for line in (shared_data / "pypi_swe" / "instances.jsonl").open()]
    assert len(rows) == 59
    for row in rows:
        assert net_change(reverse_patch(row["patch"])) == net_change(row["bug_patch"]), row["instance_id"]


def test_binary_changes_are_refused() -> None:
    with pytest.raises(DataError, match="binary"):
        reverse_patch("diff --git a/x b/x\nindex 1..2 100644\nGIT binary patch\nliteral 1\n")
