"""Bytes that a run leaves on disk, and those that it needs for a moment while it writes."""

from dataclasses import dataclass

from srl_swe.training.plan_model import ModelShape
from srl_swe.training.plan_options import PlannedOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskPlan:
    """Bytes below the run's folder."""

    checkpoint_bytes: int
    """One full checkpoint: weights, optimizer states, adapters."""
    num_checkpoints: int
    best_bytes: int
    """The best model, which has no optimizer states."""
    engine_bytes: int
    """The folder through which vLLM gets the weights; 0 for the embedded sampler."""

    @property
    def total_bytes(self) -> int:
        """Return what lies there at the most: each is written whole before the one that it replaces is removed."""
        writing = max(self.checkpoint_bytes, self.best_bytes, self.engine_bytes)
        return self.checkpoint_bytes * self.num_checkpoints + self.best_bytes + self.engine_bytes + writing


def plan_disk(shape: ModelShape, options: PlannedOptions) -> DiskPlan:
    """Return the sizes of a run's checkpoints, best model and engine folder."""
    parameters = shape.num_parameters
    adapters = shape.adapter_parameters(options.lora_rank) if options.lora_rank else 0
    trained = adapters or parameters
    model = (options.itemsize if adapters else 4) * parameters
    states = (2 if options.optimizer == "adamw_8bit" else 8) * trained
    untied = parameters + (shape.embedding_parameters if shape.tied else 0)
    return DiskPlan(
        checkpoint_bytes=model + states + 4 * adapters,
        num_checkpoints=options.keep_checkpoints,
        best_bytes=model,
        engine_bytes=0 if options.sampler == "transformers" else options.itemsize * untied,
    )
