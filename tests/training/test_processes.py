"""Two processes do what one does: gradients exchanged (DDP) or weights sharded (FSDP2); their number may change."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from srl_swe.training.trainer import train

from .run_tiny import tiny_config
from .test_resume import HELD_OUT, ROOT, TRAIN, read_metrics, wait_for_lines
from .tiny import DOMAIN

LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m"),
)
"""`--multi_gpu` is what Accelerate calls several processes; with device cpu they are on CPUs."""


def start(model: Path, output: Path, script: str, method: str, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, *LAUNCH, f"tests.training.{script}", str(model), str(output), method]
    command.append(json.dumps(options))
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def assert_same_run(found: Path, expected: Path, *, rel: float) -> None:
    ours, theirs = read_metrics(found), read_metrics(expected)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=rel, abs=rel)
    ours, theirs = load_file(found / "last/model.safetensors"), load_file(expected / "last/model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).abs().max() < 10 * rel, name


@pytest.mark.parametrize(
    ("script", "method", "options"),
    [("run_tiny", "srl", {}), ("run_tiny", "sft", {}), ("run_sharded", "srl", {"lora_rank": 4})],
)
def test_two_processes_do_what_one_does(
    tiny_model: Path, tmp_path: Path, script: str, method: str, options: dict[str, int]
) -> None:
    options |= {"num_iterations": 5}
    process = start(tiny_model, tmp_path / "two", script, method, **options)
    train(tiny_config(tiny_model, tmp_path / "one", method, **options), TRAIN, HELD_OUT, DOMAIN)
    shown = finish(process)
    assert shown.count("iteration 3/5") == 1, "one process reports"
    assert_same_run(tmp_path / "two", tmp_path / "one", rel=1e-4)


@pytest.mark.slow
def test_a_killed_sharded_run_goes_on_in_one_process_and_back(tiny_model: Path, tmp_path: Path) -> None:
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    train(tiny_config(tiny_model, whole, "srl"), TRAIN, HELD_OUT, DOMAIN)
    kill_after(4, start(tiny_model, moved, "run_sharded", "srl"), moved)
    alone = [sys.executable, "-m", "tests.training.run_tiny", str(tiny_model), str(moved), "srl"]
    kill_after(7, subprocess.Popen(alone, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True), moved)
    finish(start(tiny_model, moved, "run_sharded", "srl"))
    assert_same_run(moved, whole, rel=1e-3)


def kill_after(num_lines: int, process: "subprocess.Popen[str]", run: Path) -> None:
    wait_for_lines(process, run, num_lines)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(read_metrics(run)) < 11, "the run was over before it was killed"


def test_sigterm_ends_all_processes_with_one_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    process = start(tiny_model, tmp_path / "run", "run_tiny", "srl", num_iterations=2000, checkpoint_every=2000)
    wait_for_lines(process, tmp_path / "run", 4)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert "SIGTERM: run the same command again to go on after iteration" in output
    assert len(list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))) == 1
