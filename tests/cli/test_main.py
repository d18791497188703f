"""The command line as a user meets it: real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from srl_swe.cli.main import COMMANDS


def srl_swe(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from srl_swe.cli.main import main; main()", *words],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_help_names_every_command() -> None:
    outcome = srl_swe("--help")
    assert outcome.returncode == 0
    assert all(name in outcome.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself_without_torch(name: str) -> None:
    code = (
        "import sys\nfrom srl_swe.cli.main import main\n"
        f"try:\n    main(['{name}', '--help'])\nexcept SystemExit as end:\n"
        "    assert not end.code, end.code\n    assert 'torch' not in sys.modules, 'torch was imported'"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "usage" in outcome.stdout


def test_an_unknown_command_names_the_known_ones() -> None:
    outcome = srl_swe("evla")
    assert outcome.returncode == 2
    assert "there is no command 'evla'" in outcome.stderr
    assert "eval" in outcome.stderr


def test_reward_explain_shows_the_number() -> None:
    outcome = srl_swe("reward", "explain", "abcd", "bcde")
    assert outcome.returncode == 0
    assert "2 x 3 / 8 = 0.7500" in outcome.stdout


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    outcome = srl_swe("data", "compile", str(tmp_path / "absent.jsonl"), "--out", str(tmp_path / "steps"))
    assert outcome.returncode == 1
    assert "absent.jsonl" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "steps").exists()


def test_no_engine_is_one_clear_line() -> None:
    outcome = srl_swe("gc", DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr
    assert "engine" in outcome.stderr
