"""A killed run goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from srl_swe.errors import CheckpointError, ConfigError
from srl_swe.training.checkpoint import newest_checkpoint
from srl_swe.training.trainer import train

from .run_tiny import tiny_config
from .tiny import DOMAIN, make_examples

ROOT = Path(__file__).parents[2]
TRAIN, HELD_OUT = make_examples(20), make_examples(6, prefix="v")


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Without times, which no two runs share."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def start(model: Path, output: Path, method: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.training.run_tiny", str(model), str(output), method]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_lines(process: "subprocess.Popen[str]", output: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    path = output / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the run did not get to {count} lines: {process.communicate()[0]}")
        time.sleep(0.01)


@pytest.mark.parametrize("method", ["sft", "srl"])
def test_killed_run_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path, method: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = train(tiny_config(tiny_model, whole, method), TRAIN, HELD_OUT, DOMAIN)
    process = start(tiny_model, killed, method)
    wait_for_lines(process, killed, 6)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(read_metrics(killed)) < 11, "the run was over before it was killed"
    # What a kill in the middle of a write would leave.
    (killed / "checkpoints" / ".writing-000009").mkdir()
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 7, "train/lo')

    result = train(tiny_config(tiny_model, killed, method), TRAIN, HELD_OUT, DOMAIN)

    assert replace(result, output=whole, best_model=whole / "best", last_model=whole / "last") == expected
    assert read_metrics(killed) == read_metrics(whole)
    assert [entry["iteration"] for entry in read_metrics(killed)] == list(range(11))
    for name in ("last/model.safetensors", "last/trainer_optimizer.safetensors", "best/model.safetensors"):
        ours, theirs = load_file(killed / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            assert tensor.equal(ours[key]), f"{name}: {key}"
    names = sorted(path.name for path in (killed / "checkpoints").iterdir())
    assert names == ["000008", "000010", f"best-{expected.best_iteration:06d}"]


def test_ctrl_c_says_how_to_go_on(tiny_model: Path, tmp_path: Path) -> None:
    process = start(tiny_model, tmp_path / "run", "sft")
    wait_for_lines(process, tmp_path / "run", 4)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert "run the same command again to go on after iteration" in output
    # Python ends by the signal itself where nothing catches KeyboardInterrupt; a shell calls that 130.
    assert process.returncode == -signal.SIGINT
    assert newest_checkpoint(tmp_path / "run") is not None
    assert train(tiny_config(tiny_model, tmp_path / "run", "sft"), TRAIN, HELD_OUT, DOMAIN).iterations == 10


def test_finished_run_is_not_done_again(tiny_model: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_model, tmp_path / "run", "sft", num_iterations=2)
    first = train(config, TRAIN, HELD_OUT, DOMAIN)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert train(config, TRAIN, HELD_OUT, DOMAIN) == first
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_other_options_or_data_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_model, tmp_path / "run", "sft", num_iterations=1)
    train(config, TRAIN, HELD_OUT, DOMAIN)
    with pytest.raises(ConfigError, match=r"clip_range: 0\.2 then, 0\.3 now"):
        train(replace(config, clip_range=0.3), TRAIN, HELD_OUT, DOMAIN)
    with pytest.raises(ConfigError, match="data_fingerprints"):
        train(config, TRAIN[1:], HELD_OUT, DOMAIN)
    with pytest.raises(ConfigError, match="domain"):
        train(config, TRAIN, HELD_OUT, replace(DOMAIN, options={"history": 3}))
    # How often to write checkpoints changes nothing that is learned.
    train(replace(config, checkpoint_every=7), TRAIN, HELD_OUT, DOMAIN)


def test_foreign_folder_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        train(tiny_config(tiny_model, tmp_path, "sft"), TRAIN, HELD_OUT, DOMAIN)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_checkpoint_is_named(tiny_model: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_model, tmp_path / "run", "sft", num_iterations=4)
    train(config, TRAIN, HELD_OUT, DOMAIN)
    state = tmp_path / "run" / "checkpoints" / "000004" / "trainer_state.json"
    state.write_text(state.read_text()[:20])
    with pytest.raises(CheckpointError, match=r"000004.*go back one"):
        train(config, TRAIN, HELD_OUT, DOMAIN)


def test_full_disk_leaves_the_earlier_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tiny_config(tiny_model, run, "sft", num_iterations=4, validate_every=9)
    process = start_limited(config.output, tiny_model)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "CheckpointError" in output
    assert "Earlier checkpoints are intact" in output
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []
    kept = newest_checkpoint(run)
    assert kept is not None
    assert kept.name == "000002"
    assert (run / "last").resolve() == kept.resolve()
    assert train(config, TRAIN, HELD_OUT, DOMAIN).iterations == 4


def start_limited(output: Path, model: Path) -> "subprocess.Popen[str]":
    """Train where no file may grow beyond 4 KB once there is a checkpoint: a write fails halfway, as on a full disk."""
    code = f"""
import resource
from pathlib import Path
import srl_swe.training.trainer as trainer
from tests.training.run_tiny import tiny_config
from tests.training.tiny import DOMAIN, make_examples

save = trainer.save_checkpoint
def save_then_fill_the_disk(*args, **options):
    save(*args, **options)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
trainer.save_checkpoint = save_then_fill_the_disk
config = tiny_config(Path({str(model)!r}), Path({str(output)!r}), "sft", num_iterations=4, validate_every=9)
trainer.train(config, make_examples(20), make_examples(6, prefix="v"), DOMAIN)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
