"""A run whose processes share by DeepSpeed's ZeRO: stages 1 and 2, as a DeepSpeed config file says.

Weights stay whole and in float32 in every process, computed with in the run's dtype as everywhere; optimizer states
(stage 2: gradients too) are cut. Checkpoints hold whole tensors like any other, so that another kind of run goes on.
Leaves out stage 3, which cuts weights: that is FSDP2's part here.
"""

import importlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs
from torch import Tensor

from srl_swe.errors import ConfigError
from srl_swe.training.config import TrainConfig

STAGES = (1, 2)


def launched_with_deepspeed() -> bool:
    """Whether `accelerate launch --use_deepspeed` started this process."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def deepspeed_accelerator(config: TrainConfig, *, timeout: timedelta, **options: Any) -> Any:
    """Return the accelerator of a process that DeepSpeed shares; `timeout` is how long processes wait for each other.

    Raises:
        ConfigError: DeepSpeed is missing, its config says what does not fit the run, or it took another device.
    """
    if config.optimizer != "adamw":
        raise ConfigError(f"optimizer must be adamw under DeepSpeed, found {config.optimizer!r}")
    try:
        importlib.import_module("deepspeed")
    except ImportError as error:
        raise ConfigError(f"--use_deepspeed needs DeepSpeed ({error}): pip install deepspeed") from error
    plugin = DeepSpeedPlugin()
    settle(plugin.deepspeed_config, config)
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    handlers = [InitProcessGroupKwargs(timeout=timeout, backend="nccl" if on_gpu else "gloo")]
    # Its own precision would replace the float32 weights: computing in the run's dtype is the scorer's part.
    accelerator = Accelerator(mixed_precision="no", deepspeed_plugin=plugin, kwargs_handlers=handlers, **options)
    if config.device == "cpu" and accelerator.device.type != "cpu":
        raise ConfigError(
            "device is cpu, and DeepSpeed, which chooses by itself, took "
            f"{accelerator.device}: set DS_ACCELERATOR=cpu in front of the command, or leave --device out"
        )
    return accelerator


def settle(given: dict[str, Any], config: TrainConfig) -> None:
    """Check what the run decides by its own options, and fill it in.

    Raises:
        ConfigError: the DeepSpeed config says otherwise.
    """
    zero = given.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    if stage not in STAGES:
        raise ConfigError(
            f"zero_optimization.stage in the DeepSpeed config must be 1 or 2, found {stage!r}: to cut weights as well, "
            "launch with --use_fsdp --fsdp_version 2; to cut nothing, with --multi_gpu"
        )
    if zero.get("offload_optimizer", {}).get("device", "none") != "none":
        raise ConfigError(
            "the DeepSpeed config has zero_optimization.offload_optimizer, which no test covers here: leave it out; "
            "--lora-rank needs less memory as well"
        )
    for name, instead in (("optimizer", "--learning-rate and --weight-decay"), ("scheduler", "--schedule")):
        if name in given:
            raise ConfigError(f"the DeepSpeed config has {name!r}: leave it out and give {instead}")
    for name in ("fp16", "bf16"):
        if given.get(name, {}).get("enabled") not in (None, False, "auto"):
            raise ConfigError(f"the DeepSpeed config turns on {name!r}: leave it out and give --dtype")
    decided = {
        # Batches are packs of tokens, and the run says itself which of them ends an update.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
    }
    for name, value in decided.items():
        if given.get(name, value) not in (value, "auto"):
            raise ConfigError(f"{name} in the DeepSpeed config must be {value!r} or left out, found {given[name]!r}")
    given |= decided
    given.pop("train_batch_size", None)


class ZeroEngine:
    """DeepSpeed's engine around the forward pass, with updates that end where the run says."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add up gradients; with the last of an update they are the mean over processes."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)

    def gradient_norm(self) -> Tensor:
        """Return the norm of the update's whole gradient, before it is clipped."""
        norm = torch.as_tensor(self._engine.optimizer.scaled_global_norm())
        # DeepSpeed's -1 stands for what is not finite.
        return torch.where(norm < 0, torch.inf, norm)

    def step(self) -> None:
        """Clip and update."""
        self._engine.step()

    def optimizer_state(self, model: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield AdamW's states as whole tensors, by `PARAMETER/KEY`. Every process must go through all of it."""
        utils: Any = importlib.import_module("deepspeed.utils")
        steps = [state["step"] for state in self._engine.optimizer.optimizer.state.values() if "step" in state]
        for name, parameter in model.named_parameters():
            if steps and parameter.requires_grad:
                for key in ("exp_avg", "exp_avg_sq"):
                    yield f"{name}/{key}", utils.safe_get_full_optimizer_state(parameter, key)
                yield f"{name}/step", torch.as_tensor(steps[0]).clone()

    def load_optimizer_state(self, model: Any, tensors: dict[str, Tensor]) -> None:
        """Set AdamW's states.

        Raises:
            KeyError: one is missing.
        """
        utils: Any = importlib.import_module("deepspeed.utils")
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        if not any(f"{name}/step" in tensors for name, _ in named):
            return
        zero = self._engine.optimizer
        for part in zero.single_partition_of_fp32_groups:
            zero.optimizer.state[part] = {
                "step": tensors[f"{named[0][0]}/step"].clone(),
                "exp_avg": torch.zeros_like(part),
                "exp_avg_sq": torch.zeros_like(part),
            }
        zero._lazy_init_hp_params_optimizer_state()
        for name, parameter in named:
            for key in ("exp_avg", "exp_avg_sq"):
                utils.safe_set_full_optimizer_state(parameter, tensors[f"{name}/{key}"].to(parameter.device), key)
