"""A policy's weights as the plain model has them: shards put together, adapters merged.

Samplers, checkpoints and model folders all take the weights from here. Leaves out where they go.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

ADAPTER = "default"
"""PEFT's name for the one adapter that there is."""


def add_adapters(model: Any, *, rank: int, alpha: int, seed: int) -> None:
    """Freeze the model and put trained low-rank adapters beside every linear layer but the head (arXiv 2106.09685)."""
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)


def cast(model: Any, dtype: torch.dtype) -> None:
    """Give a model's weights another dtype, in place.

    Not the frequencies of rotary positions: rounded to bfloat16 they turn by whole radians some thousand tokens on.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    for name, buffer in model.named_buffers():
        if _is_rounded(name, buffer):
            buffer.data = buffer.data.to(dtype)


def cast_copy(model: Any, dtype: torch.dtype) -> Any:
    """Return an independent copy of a model with weights in a dtype; nothing is copied in the old one."""
    tensors = [*model.parameters(), *(buffer for name, buffer in model.named_buffers() if _is_rounded(name, buffer))]
    made: dict[int, Any] = {}
    for tensor in tensors:
        data = tensor.detach().to(dtype, copy=True)
        made[id(tensor)] = nn.Parameter(data, requires_grad=False) if isinstance(tensor, nn.Parameter) else data
    return copy.deepcopy(model, made)


def _is_rounded(name: str, buffer: Tensor) -> bool:
    return buffer.is_floating_point() and not name.endswith("inv_freq")


def plain_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield name and whole tensor of everything that the model had before adapters; a shared tensor under its
    first name.

    With several processes each must go through all of it. Tensors may be the model's own: do not change them.
    """
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    shared -= {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        if _is_adapter(name) or name in shared:
            continue
        layer, base, part = name.rpartition(".base_layer.")
        if base and part == "weight":
            yield f"{layer}.{part}", _merged(model.get_submodule(layer), tensor)
        else:
            yield f"{layer}.{part}" if base else name, whole(tensor)


def adapter_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield name and whole tensor of the adapters, where there are any; every process must go through all of it."""
    for name, tensor in model.state_dict().items():
        if _is_adapter(name):
            yield name, whole(tensor)


def kept(tensors: Iterable[tuple[str, Tensor]], *, here: bool) -> dict[str, Tensor]:
    """Go through whole tensors and keep them, on the CPU; where not `here`, only go through them.

    What is whole beside a process's shards is one tensor at a time.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if here:
            found[name] = tensor.cpu().contiguous()
        del tensor  # before the next one is put together
    return found


def load_adapters(model: Any, tensors: dict[str, Tensor]) -> None:
    """Set the adapters' tensors.

    Raises:
        KeyError: one is missing, or is not the model's.
    """
    own = {name for name in model.state_dict() if _is_adapter(name)}
    if own != tensors.keys():
        raise KeyError(f"adapters {sorted(own ^ tensors.keys())[0]} and others are only on one side")
    model.load_state_dict(tensors, strict=False)


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """Return a tensor put together from the shards that processes hold; a plain one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor cut and placed as a parameter is."""
    if not isinstance(parameter, DTensor):
        return tensor.to(parameter.device)
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


@torch.no_grad()
def _merged(layer: Any, weight: Tensor) -> Tensor:
    first, second = (whole(part[ADAPTER].weight).float() for part in (layer.lora_A, layer.lora_B))
    base = whole(weight)
    scaling: float = layer.scaling[ADAPTER]
    merged: Tensor = (base.float() + scaling * (second @ first)).to(base.dtype)
    return merged


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name
