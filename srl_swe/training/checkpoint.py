"""Checkpoints: folders that appear whole or not at all, and hold everything an exact resume needs.

A run's folder holds config.json, metrics.jsonl, checkpoints/NNNNNN (model, optimizer, state), checkpoints/best-NNNNNN
(model only), and the links `last` and `best` to the newest of each, which load like any model folder.
Tensors are safetensors, the rest JSON; nothing is pickled.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from srl_swe.errors import CheckpointError
from srl_swe.files import write_atomically
from srl_swe.training.domain import OPTIONS_FILE, Domain
from srl_swe.training.policy import Policy
from srl_swe.training.processes import Processes
from srl_swe.training.refill import FIRST_STATE, RefillState
from srl_swe.training.weights import adapter_weights, kept, like, load_adapters, whole

STATE_FILE = "trainer_state.json"
OPTIMIZER_FILE = "trainer_optimizer.safetensors"
ADAPTER_FILE = "trainer_adapters.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """Where a run stands, apart from weights and optimizer."""

    iteration: int = 0
    """Iterations done."""
    drawn: int = 0
    """Step examples drawn from the data order."""
    initial_reward: float | None = None
    """Validation reward before training."""
    best_reward: float | None = None
    best_iteration: int | None = None
    completion_tokens: int = 0
    """Sampled (or, for SFT, imitated) since the start."""
    tree_tokens: int = 0
    """Passed through training since the start."""
    trained_tokens: int = 0
    """Completion tokens that had a part in the loss since the start."""
    validations_without_gain: int = 0
    """In a row, up to the last."""
    flat_iterations: int = 0
    """Iterations in a row without signal, up to the last."""
    refill: RefillState = FIRST_STATE
    pending: Mapping[str, float] | None = field(default_factory=dict)
    """Metrics of an iteration whose end (validation, line of metrics) is still to come; None = it is over."""


def save_checkpoint(
    run: Path,
    state: TrainState,
    *,
    policy: Policy,
    domain: Domain,
    optimizer: torch.optim.Optimizer,
    keep: int,
    processes: Processes,
) -> None:
    """Write a full checkpoint, point `last` at it, and remove those beyond `keep`. Every process must call it.

    Tensors are whole and adapters are kept besides the merged weights, so that any number of processes goes on from it.
    They are put together one at a time and kept by the first process alone, in its host's memory.

    Raises:
        CheckpointError: nothing was changed.
    """
    weights = kept(policy.weights(), here=processes.first)
    adapters = kept(adapter_weights(policy.model), here=processes.first)
    optimizer_tensors = kept(_optimizer_tensors(policy.model, optimizer, processes), here=processes.first)
    if not processes.first:
        return

    def fill(folder: Path) -> None:
        _save_model(folder, policy, weights, domain)
        save_file(optimizer_tensors, folder / OPTIMIZER_FILE)
        if adapters:
            save_file(adapters, folder / ADAPTER_FILE)
        (folder / STATE_FILE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")

    folder = run / "checkpoints" / f"{state.iteration:06d}"
    _publish(folder, fill, link=run / "last")
    for old in sorted(run.glob("checkpoints/[0-9]*"))[:-keep]:
        if old != folder:
            shutil.rmtree(old)


def save_best(
    run: Path, iteration: int, metrics: dict[str, float], *, policy: Policy, domain: Domain, processes: Processes
) -> None:
    """Write the model of the best validation so far, point `best` at it, and remove the one before.

    Every process must call it.

    Raises:
        CheckpointError: nothing was changed.
    """
    weights = kept(policy.weights(), here=processes.first)
    if not processes.first:
        return

    def fill(folder: Path) -> None:
        _save_model(folder, policy, weights, domain)
        (folder / "validation.json").write_text(json.dumps(metrics | {"iteration": iteration}, indent=1), "utf-8")

    folder = run / "checkpoints" / f"best-{iteration:06d}"
    _publish(folder, fill, link=run / "best")
    for old in run.glob("checkpoints/best-*"):
        if old != folder:
            shutil.rmtree(old)


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest full checkpoint's folder."""
    return max(run.glob("checkpoints/[0-9]*"), default=None)


def load_state(folder: Path) -> TrainState:
    """Read where the run stood.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        record = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        return TrainState(**{**record, "refill": RefillState.from_json(record["refill"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder / STATE_FILE} cannot be read: {error}. Remove {folder} to go back one."
        ) from error


def load_adapter_file(folder: Path, policy: Policy) -> None:
    """Restore the adapters of a checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged or of other adapters.
    """
    path = folder / ADAPTER_FILE
    try:
        load_adapters(policy.model, load_file(path))
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Remove {folder} to go back one.") from error


def load_optimizer(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, processes: Processes) -> None:
    """Restore the optimizer and torch's random states.

    Raises:
        CheckpointError: the file is missing, damaged or of another model.
    """
    path = folder / OPTIMIZER_FILE
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        torch.set_rng_state(tensors["rng/cpu"])
        if torch.cuda.is_available() and "rng/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng/cuda"])
        if processes.zero:
            processes.zero.load_optimizer_state(policy.model, tensors)
            return
        for name, parameter in policy.model.named_parameters():
            keys = [key for key in tensors if key.startswith(f"{name}/")]
            if keys:
                optimizer.state[parameter] = {key.rpartition("/")[2]: _placed(tensors[key], parameter) for key in keys}
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Remove {folder} to go back one.") from error


def remove_unfinished(run: Path) -> None:
    """Delete what an interrupted write left behind."""
    for folder in run.glob("checkpoints/.writing-*"):
        shutil.rmtree(folder)


def write_record(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old or the new text.

    Raises:
        CheckpointError: the old file is untouched.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def _save_model(folder: Path, policy: Policy, weights: Mapping[str, Tensor], domain: Domain) -> None:
    policy.save(folder, weights)
    (folder / OPTIONS_FILE).write_text(json.dumps(dict(domain.options), indent=1), encoding="utf-8")


def _publish(folder: Path, fill: Callable[[Path], None], *, link: Path) -> None:
    temporary = folder.with_name(f".writing-{folder.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        for path in temporary.rglob("*"):
            _sync(path)
        _sync(temporary)
        # Only a run that goes over the same iteration again finds the folder there.
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        _sync(folder.parent)
        new_link = link.with_name(f".writing-{link.name}")
        new_link.unlink(missing_ok=True)
        new_link.symlink_to(folder.relative_to(link.parent))
        new_link.replace(link)
        _sync(link.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {folder} cannot be written: {error}. Earlier checkpoints are intact; free some space and "
            "run the same command again."
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _optimizer_tensors(
    model: Any, optimizer: torch.optim.Optimizer, processes: Processes
) -> Iterator[tuple[str, Tensor]]:
    yield "rng/cpu", torch.get_rng_state()
    if torch.cuda.is_available():
        yield "rng/cuda", torch.cuda.get_rng_state()
    if processes.zero:
        yield from processes.zero.optimizer_state(model)
        return
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensor = value if isinstance(value, Tensor) else torch.tensor(value)
            # 8-bit states share their tables, which safetensors refuses.
            yield f"{name}/{key}", whole(tensor).clone() if key.startswith("qmap") else whole(tensor)


def _placed(tensor: Tensor, parameter: Tensor) -> Tensor | int:
    """Return an entry of a parameter's optimizer state as the optimizer had it."""
    if tensor.dim():
        # What has another shape (the scales of 8-bit states) is not cut.
        return like(tensor, parameter) if tensor.shape == parameter.shape else tensor.to(parameter.device)
    # A step counter: AdamW keeps a tensor on the CPU unless it is fused, 8-bit optimizers an integer.
    return tensor if tensor.is_floating_point() else int(tensor)
