"""Low-rank adapters and 8-bit optimizer states: what is trained, what is kept, and that a run goes on exactly."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from srl_swe.errors import ConfigError
from srl_swe.training.checkpoint import TrainState, load_optimizer, save_checkpoint
from srl_swe.training.optimizers import make_optimizer
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row, build_pack
from srl_swe.training.processes import Processes
from srl_swe.training.trainer import train
from srl_swe.training.weights import add_adapters, plain_weights

from .run_tiny import tiny_config
from .test_resume import HELD_OUT, ROOT, TRAIN, read_metrics, wait_for_lines
from .tiny import DOMAIN, write_model

ROWS = [Row(prompt_ids=(1, 2, 3), completion_ids=(4, 5)), Row(prompt_ids=(1, 2), completion_ids=(7,))]
PACK = build_pack(ROWS, [0, 1])


def adapted(model: Path) -> Policy:
    policy = Policy.from_pretrained(model)
    add_adapters(policy.model, rank=4, alpha=8, seed=0)
    return policy


def test_new_adapters_change_nothing_and_are_all_that_is_trained(tiny_model: Path) -> None:
    plain, policy = Policy.from_pretrained(tiny_model), adapted(tiny_model)
    assert torch.equal(policy.logprobs(PACK), plain.logprobs(PACK))
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in policy.model.named_parameters() if ".lora_" in name}
    # Seven linear layers in each of two decoder layers, two matrices each.
    assert len(trained) == 2 * 7 * 2


def test_merged_weights_are_the_adapted_model(tiny_model: Path) -> None:
    policy = adapted(tiny_model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    plain = Policy.from_pretrained(tiny_model)
    before = plain.logprobs(PACK)
    found = dict(plain_weights(policy.model))
    assert found.keys() == dict(plain_weights(plain.model)).keys()
    plain.model.load_state_dict(found, strict=False)
    assert not torch.allclose(plain.logprobs(PACK), before, atol=0.1)
    torch.testing.assert_close(plain.logprobs(PACK), policy.logprobs(PACK), rtol=1e-5, atol=1e-5)


def test_a_killed_run_with_adapters_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(tiny_config(tiny_model, whole, "srl", lora_rank=4), TRAIN, HELD_OUT, DOMAIN)
    command = (sys.executable, "-m", "tests.training.run_tiny", str(tiny_model), str(killed), "srl", '{"lora_rank": 4}')
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_lines(process, killed, 6)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(read_metrics(killed)) < 11, "the run was over before it was killed"
    train(tiny_config(tiny_model, killed, "srl", lora_rank=4), TRAIN, HELD_OUT, DOMAIN)
    assert read_metrics(killed) == read_metrics(whole)
    for name in ("model", "trainer_adapters", "trainer_optimizer"):
        ours, theirs = (load_file(run / "last" / f"{name}.safetensors") for run in (killed, whole))
        assert ours.keys() == theirs.keys()
        assert all(tensor.equal(ours[key]) for key, tensor in theirs.items()), name
    rewards = [entry["reward/mean"] for entry in read_metrics(whole)[1:]]
    assert sum(rewards[-3:]) > sum(rewards[:3]), "adapters learn"
    start, end = (load_file(folder / "model.safetensors") for folder in (tiny_model, whole / "last"))
    assert start.keys() == end.keys()
    assert not torch.equal(start["model.layers.0.mlp.up_proj.weight"], end["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(start["model.embed_tokens.weight"], end["model.embed_tokens.weight"])


def test_eight_bit_states_are_kept_exactly(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="extra [8bit] is not installed")
    # Matrices of 64 x 96 are large enough for 8 bits; smaller ones keep 32.
    policy = Policy.from_pretrained(write_model(tmp_path / "model", hidden_size=64, intermediate_size=96))
    config = tiny_config(tmp_path / "model", tmp_path / "run", "srl", optimizer="adamw_8bit")

    def step(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        policy.logprobs(PACK).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return {name: tensor.clone() for name, tensor in policy.weights()}

    optimizer = make_optimizer(config, policy.model)
    before = {name: tensor.clone() for name, tensor in policy.weights()}
    step(policy, optimizer)
    large = policy.model.model.layers[0].mlp.up_proj.weight
    assert optimizer.state[large]["state1"].dtype == torch.uint8
    processes = Processes(Accelerator(cpu=True))
    save_checkpoint(
        config.output, TrainState(), policy=policy, domain=DOMAIN, optimizer=optimizer, keep=1, processes=processes
    )
    again = Policy.from_pretrained(config.output / "last")
    loaded = make_optimizer(config, again.model)
    load_optimizer(config.output / "last", again, loaded, processes)
    after = step(policy, optimizer)
    assert all(torch.equal(after[name], tensor) for name, tensor in step(again, loaded).items())
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])


def test_an_optimizer_whose_package_is_missing_is_named(tiny_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    config = tiny_config(Path("model"), Path("run"), "srl", optimizer="adamw_8bit")
    with pytest.raises(ConfigError, match=r"pip install 'srl-swe\[8bit\]'"):
        make_optimizer(config, tiny_policy.model)


def test_alpha_without_adapters_is_refused() -> None:
    with pytest.raises(ConfigError, match="lora_alpha must be left out without lora_rank, found 8"):
        tiny_config(Path("model"), Path("run"), "srl", lora_alpha=8)
