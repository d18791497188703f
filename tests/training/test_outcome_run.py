"""Whole runs of outcome RL in real containers, with a tiny model: it learns, and nothing that ends it early shows."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from srl_swe.environments.engine import Engine
from srl_swe.errors import ConfigError
from srl_swe.software_engineering import episode_starts
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row, build_pack
from srl_swe.training.trainer import TrainResult, train
from srl_swe.training.transformers_sampler import TransformersSampler

from .episode_world import ACTING_DOMAIN, acting_config, letter_instances, run_acting, warm_up
from .test_episodes import own_containers
from .test_processes import LAUNCH, assert_same_run
from .test_resume import ROOT, read_metrics, wait_for_lines

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def warm_model(acting_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that repairs or submits at once, about as often."""
    return warm_up(acting_model, tmp_path_factory.mktemp("warm") / "sft")


@pytest.fixture(scope="module")
def whole(warm_model: Path, acting_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run that nothing interrupted."""
    return run_acting(acting_config(warm_model, tmp_path_factory.mktemp("whole") / "run"))


def chance_to_repair(model: Path) -> float:
    """Return the probability that the first answer on an instance is the repair."""
    policy = Policy.from_pretrained(model)
    prompt = policy.encode_prompt(ACTING_DOMAIN.render(episode_starts(letter_instances("a"))[0]))
    row = Row(prompt_ids=tuple(prompt), completion_ids=tuple(policy.encode_completion("h|fix")))
    with torch.no_grad():
        return float(policy.logprobs(build_pack([row], [0])).sum().exp())


def test_it_learns_what_the_verdict_rewards(whole: TrainResult, warm_model: Path) -> None:
    assert 0.2 < chance_to_repair(warm_model) < 0.8
    assert chance_to_repair(whole.last_model) > chance_to_repair(warm_model) + 0.1
    lines = read_metrics(whole.output)
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    # One held-out instance, before and after.
    assert {"validation/resolve_rate", "validation/reward", "validation/invalid"} <= lines[0].keys() & lines[2].keys()
    for line in lines[1:]:
        assert line["episodes/sampled"] == 4 * (1 + line["groups/refills"])
        assert line["episodes/invalid"] == 0
        assert line["episodes/resolve_rate"] == line["reward/mean"]
        assert line["episodes/trained"] == 4 * line["groups/kept"]


def run_tells_containers(process: "subprocess.Popen[str]", engine: Engine) -> list[str]:
    return [container.id for container in engine.list_containers(f"srl_swe.pid={process.pid}")]


def test_terminated_then_killed_it_goes_on_bit_for_bit_and_leaves_no_container(
    whole: TrainResult, warm_model: Path, acting_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = acting_config(warm_model, run)
    sample = TransformersSampler.sample
    batches: list[int] = []

    def terminated(self: TransformersSampler, *arguments: Any, **options: Any) -> Any:
        batches.append(len(arguments))
        if len(batches) == 4:
            assert own_containers(acting_engine)
            os.kill(os.getpid(), signal.SIGTERM)
        return sample(self, *arguments, **options)

    # The first two batches are the validation's.
    monkeypatch.setattr(TransformersSampler, "sample", terminated)
    assert run_acting(config).ending == "terminated"
    monkeypatch.undo()
    assert own_containers(acting_engine) == set()
    done = len(read_metrics(run))

    command = [sys.executable, "-m", "tests.training.episode_world", str(warm_model), str(run)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_lines(process, run, done + 1)
    deadline = time.monotonic() + 30
    while not run_tells_containers(process, acting_engine) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run_tells_containers(process, acting_engine)
    done = len(read_metrics(run))

    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert run_tells_containers(process, acting_engine) == []
    # What was done was not done again.
    assert "iteration 2/2" in again.stdout
    assert f"iteration {done - 1}/2" not in again.stdout
    assert read_metrics(run) == read_metrics(whole.output)
    for name in ("last/model.safetensors", "last/trainer_optimizer.safetensors", "best/model.safetensors"):
        ours, theirs = load_file(run / name), load_file(whole.output / name)
        assert all(tensor.equal(ours[key]) for key, tensor in theirs.items()), name


@pytest.mark.parametrize("changes", [{}, {"prompts_per_iteration": 2, "fork_after_steps": 1}])
def test_two_processes_play_what_one_does(
    warm_model: Path, acting_engine: Engine, tmp_path: Path, changes: dict[str, Any]
) -> None:
    command = [sys.executable, *LAUNCH, "tests.training.episode_world", str(warm_model), str(tmp_path / "two")]
    process = subprocess.Popen(
        [*command, json.dumps(changes)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    run_acting(acting_config(warm_model, tmp_path / "one", **changes))
    shown, _ = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    assert shown.count("iteration 1/2") == 1, "one process reports"
    lines = read_metrics(tmp_path / "two")
    assert all(line["episodes/sampled"] == 4 * changes.get("prompts_per_iteration", 1) for line in lines[1:])
    assert any(line["groups/kept"] for line in lines[1:]), "nothing was trained on"
    assert [line["groups/forked"] > 0 for line in lines[1:]] == ["fork_after_steps" in changes] * 2
    assert_same_run(tmp_path / "two", tmp_path / "one", rel=1e-4)
    assert own_containers(acting_engine) == set()


def test_other_instances_or_limits_are_refused(whole: TrainResult, warm_model: Path) -> None:
    config = acting_config(warm_model, whole.output)
    with pytest.raises(ConfigError, match="max_steps: 3 then, 5 now"):
        run_acting(replace(config, episodes=replace(config.episodes, max_steps=5)))
    with pytest.raises(ConfigError, match="data_fingerprints"):
        run_acting(config, letters="abd")
    with pytest.raises(ConfigError, match="method rlvr plays episodes"):
        train(config, [], [], ACTING_DOMAIN)
    # How many containers there are at once changes nothing that is learned.
    assert run_acting(replace(config, episodes=replace(config.episodes, max_parallel=2))) == whole
