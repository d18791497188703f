"""SIGTERM at any moment: a checkpoint, exit code 0, and then what an uninterrupted run would have done."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from srl_swe.training import trainer
from srl_swe.training.termination import Terminated, Termination
from srl_swe.training.trainer import train

from .run_tiny import tiny_config
from .test_resume import ROOT, read_metrics, wait_for_lines
from .tiny import DOMAIN, make_examples

TRAIN, HELD_OUT = make_examples(20), make_examples(6, prefix="v")


def same_runs(first: Path, second: Path) -> None:
    assert read_metrics(first) == read_metrics(second)
    for name in ("last/model.safetensors", "last/trainer_optimizer.safetensors", "best/model.safetensors"):
        ours, theirs = load_file(first / name), load_file(second / name)
        assert ours.keys() == theirs.keys()
        assert all(tensor.equal(theirs[key]) for key, tensor in ours.items()), name
    for field in ("refill", "drawn", "best_reward", "validations_without_gain"):
        states = [json.loads((run / "last" / "trainer_state.json").read_text())[field] for run in (first, second)]
        assert states[0] == states[1]


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_config(tiny_model, run, "srl"), TRAIN, HELD_OUT, DOMAIN)
    return run


# Where the signal comes: name in the trainer, and whether before or after its work.
MOMENTS = [
    ("validate", "before"),
    ("validate", "after"),
    ("collect_groups", "before"),
    ("collect_groups", "after"),
    ("update_policy", "before"),
    ("update_policy", "after"),
    ("save_best", "before"),
    ("save_checkpoint", "before"),
    ("save_checkpoint", "after"),
]


@pytest.mark.parametrize(("name", "place"), MOMENTS)
@pytest.mark.parametrize("call", [1, 2])
def test_any_moment_goes_on_exactly(
    tiny_model: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, call: int
) -> None:
    real: Callable[..., Any] = getattr(trainer, name)
    calls = []

    def terminated(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if place == "before" and len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        result = real(*arguments, **options)
        if place == "after" and len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    run = tmp_path / "run"
    monkeypatch.setattr(trainer, name, terminated)
    with Termination() as termination:
        stopped = train(tiny_config(tiny_model, run, "srl"), TRAIN, HELD_OUT, DOMAIN, termination=termination)
    monkeypatch.undo()
    if name == "save_best" and len(calls) < call:
        pytest.skip("there was one best model only")
    assert stopped.ending == "terminated"
    assert stopped.iterations < 10
    assert train(tiny_config(tiny_model, run, "srl"), TRAIN, HELD_OUT, DOMAIN).ending == "done"
    same_runs(run, whole)


def test_a_process_exits_with_0_and_goes_on(tiny_model: Path, tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tests.training.run_tiny", str(tiny_model), str(run), "srl"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_lines(process, run, 4)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "SIGTERM: run the same command again to go on after iteration" in output
    assert time.monotonic() - start < 60
    assert 3 <= len(read_metrics(run)) < 11
    train(tiny_config(tiny_model, run, "srl"), TRAIN, HELD_OUT, DOMAIN)
    same_runs(run, whole)


def test_an_update_that_takes_too_long_is_left_without_a_checkpoint(
    tiny_model: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.update_policy

    def slow(*arguments: Any, before_step: Callable[[], None], **options: Any) -> dict[str, float]:
        def before() -> None:
            before_step()
            if options["learning_rate"] and run_has_lines(run, 4):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(30)

        return real(*arguments, before_step=before, **options)

    run = tmp_path / "run"
    monkeypatch.setattr(trainer, "update_policy", slow)
    start = time.monotonic()
    with Termination(grace_s=0.2) as termination:
        stopped = train(tiny_config(tiny_model, run, "srl"), TRAIN, HELD_OUT, DOMAIN, termination=termination)
    assert time.monotonic() - start < 20
    assert stopped.ending == "terminated"
    assert (run / "last").resolve().name == "000002"
    monkeypatch.undo()
    train(tiny_config(tiny_model, run, "srl"), TRAIN, HELD_OUT, DOMAIN)
    same_runs(run, whole)


def run_has_lines(run: Path, count: int) -> bool:
    return (run / "metrics.jsonl").read_text().count("\n") >= count


def test_the_earlier_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    with pytest.raises(Terminated), Termination():
        os.kill(os.getpid(), signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before
    # Not opened, it does nothing.
    idle = Termination()
    idle.hold()
    idle.release()


def test_without_a_termination_the_result_is_the_same(tiny_model: Path, tmp_path: Path, whole: Path) -> None:
    config = tiny_config(tiny_model, tmp_path / "run", "srl")
    assert train(replace(config, checkpoint_every=3), TRAIN, HELD_OUT, DOMAIN).ending == "done"
    assert read_metrics(config.output) == read_metrics(whole)
