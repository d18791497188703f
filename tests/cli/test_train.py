"""`srl-swe train` as a scheduler meets it: a real process that gets SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srl_swe.trajectories.store import write_steps
from srl_swe.types import CompiledTrajectory, Step, Trajectory
from tests.training.tiny import make_model
from tests.training.tiny import make_tokenizer as make_letters

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of a run whose prompts fit the model and whose answers are never right."""
    folder = tmp_path_factory.mktemp("train")
    model = make_model()
    model.config.max_position_embeddings = 4096  # type: ignore[union-attr,assignment]
    model.save_pretrained(folder / "model")  # type: ignore[operator]
    make_letters().save_pretrained(folder / "model")
    steps = [Step(thought="hm", action=f"ls {name}", observation="ok", exit_code=0) for name in "abcdef"]
    trajectory = Trajectory(
        trajectory_id="t", instance_id="i", problem_statement="say a", steps=tuple(steps), patch="", source="made here",
        model="", resolved=None,
    )  # fmt: skip
    write_steps([CompiledTrajectory(trajectory=trajectory, targets=tuple(range(6)))], folder / "steps", header={})
    return [
        "--recipe", str(ROOT / "recipes" / "cpu-smoke.toml"), "--data", str(folder / "steps"),
        "--model", str(folder / "model"), "--method", "sft", "--num-iterations", "400", "--max-prompt-tokens", "2000",
        "--tokens-per-pack", "3000", "--threads", "1",
    ]  # fmt: skip


def start(words: list[str], output: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", "from srl_swe.cli.main import main; main()", "train", *words]
    return subprocess.Popen(
        [*command, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run(words: list[str], tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = start(words, tmp_path / "run")
    deadline = time.monotonic() + 60
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(process.communicate()[0])
        time.sleep(0.01)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert ("stopped by SIGTERM after iteration" in output) == (code == 0)
    assert "Traceback" not in output
