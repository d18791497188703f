"""What a DeepSpeed config may say. Runs under DeepSpeed itself are described in docs/training.md."""

import sys
import weakref
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from srl_swe.errors import ConfigError
from srl_swe.training.checkpoint import OPTIMIZER_FILE, TrainState, save_checkpoint
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row, build_pack
from srl_swe.training.zero import ZeroEngine, deepspeed_accelerator, launched_with_deepspeed, settle

from .run_tiny import tiny_config
from .tiny import DOMAIN, make_model, make_tokenizer

WAIT = timedelta(minutes=5)
CONFIG = tiny_config(Path("model"), Path("run"), "srl", max_grad_norm=0.5)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_run_fills_in_what_it_decides(stage: int) -> None:
    given = {
        "zero_optimization": {"stage": stage, "overlap_comm": True}, "train_batch_size": "auto",
        "bf16": {"enabled": "auto"}, "gradient_accumulation_steps": "auto", "wall_clock_breakdown": True,
    }  # fmt: skip
    settle(given, CONFIG)
    assert given == {
        "zero_optimization": {"stage": stage, "overlap_comm": True},
        "bf16": {"enabled": "auto"},
        "wall_clock_breakdown": True,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
    }


STAGE_2 = {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "stage in the DeepSpeed config must be 1 or 2, found 0: .*--use_fsdp"),
        ({"zero_optimization": {"stage": 3}}, "must be 1 or 2, found 3"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, "offload_optimizer"),
        ({**STAGE_2, "optimizer": {"type": "AdamW"}}, "has 'optimizer': leave it out and give --learning-rate"),
        ({**STAGE_2, "scheduler": {}}, "has 'scheduler': leave it out and give --schedule"),
        ({**STAGE_2, "fp16": {"enabled": True}}, "turns on 'fp16': leave it out and give --dtype"),
        ({**STAGE_2, "gradient_clipping": 1.0}, "gradient_clipping in the DeepSpeed config must be 0.5 or left out"),
        ({**STAGE_2, "gradient_accumulation_steps": 4}, "must be 1 or left out, found 4"),
    ],
)
def test_what_the_run_decides_otherwise_is_refused(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        settle(given, CONFIG)


def test_deepspeed_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not launched_with_deepspeed()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert launched_with_deepspeed()
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ConfigError, match="pip install deepspeed"):
        deepspeed_accelerator(CONFIG, timeout=WAIT)
    eight_bits = tiny_config(Path("model"), Path("run"), "srl", optimizer="adamw_8bit")
    with pytest.raises(ConfigError, match="optimizer must be adamw under DeepSpeed, found 'adamw_8bit'"):
        deepspeed_accelerator(eight_bits, timeout=WAIT)


def test_a_device_that_deepspeed_chose_against_the_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed and a GPU are stood in for."""
    made = SimpleNamespace(device=torch.device("cuda", 0))
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": 2}})
    monkeypatch.setattr("srl_swe.training.zero.importlib", SimpleNamespace(import_module=lambda _: None))
    monkeypatch.setattr("srl_swe.training.zero.DeepSpeedPlugin", lambda: plugin)
    monkeypatch.setattr("srl_swe.training.zero.Accelerator", lambda **_: made)
    assert CONFIG.device == "cpu"
    with pytest.raises(ConfigError, match=r"device is cpu, .* took cuda:0: set DS_ACCELERATOR=cpu"):
        deepspeed_accelerator(CONFIG, timeout=WAIT)
    assert deepspeed_accelerator(replace(CONFIG, device="auto"), timeout=WAIT) is made
    made.device = torch.device("cpu")
    assert deepspeed_accelerator(CONFIG, timeout=WAIT) is made


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_puts_one_tensor_together_at_a_time(
    first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the first process alone keeps them. DeepSpeed is stood in for."""
    policy = Policy(make_model("llama"), make_tokenizer(), source="tiny")
    optimizer = torch.optim.AdamW(policy.model.parameters())
    policy.logprobs(build_pack([Row(prompt_ids=(1, 2), completion_ids=(3, 4))], [0])).sum().backward()
    optimizer.step()
    given: list[weakref.ref[torch.Tensor]] = []

    def put_together(parameter: torch.nn.Parameter, key: str) -> torch.Tensor:
        assert first or not any(ref() is not None for ref in given)
        tensor = optimizer.state[parameter][key].clone()
        given.append(weakref.ref(tensor))
        return tensor

    utils = SimpleNamespace(safe_get_full_optimizer_state=put_together)
    monkeypatch.setattr("srl_swe.training.zero.importlib", SimpleNamespace(import_module=lambda _: utils))
    engine = ZeroEngine(SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer)))
    processes: Any = SimpleNamespace(first=first, zero=engine)
    save_checkpoint(
        tmp_path, TrainState(), policy=policy, domain=DOMAIN, optimizer=optimizer, keep=1, processes=processes
    )
    names = [name for name, _ in policy.model.named_parameters()]
    assert len(given) == 2 * len(names)
    assert (tmp_path / "last").exists() == first
    if first:
        saved = load_file(tmp_path / "last" / OPTIMIZER_FILE)
        keys = {f"{name}/{key}" for name in names for key in ("exp_avg", "exp_avg_sq", "step")}
        assert saved.keys() - {"rng/cpu", "rng/cuda"} == keys
        for name, parameter in policy.model.named_parameters():
            assert saved[f"{name}/exp_avg"].equal(optimizer.state[parameter]["exp_avg"])
