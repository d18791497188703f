"""The options of a run that decide its memory and its time, as a plan varies them."""

from dataclasses import dataclass
from typing import Literal

from srl_swe.training.config import Method

Launch = Literal["single", "ddp", "fsdp2"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedOptions:
    """Options of `srl-swe train`, and how its processes share the work."""

    method: Method
    dtype: Literal["bfloat16", "float32"]
    tokens_per_pack: int
    gradient_checkpointing: bool
    lora_rank: int | None
    optimizer: Literal["adamw", "adamw_8bit"]
    sampler: str
    launch: Launch
    """single: one process. ddp: whole weights in each. fsdp2: shards of them."""
    cached_tokens: int
    concurrent_rollouts: int
    rollouts_per_prompt: int
    max_prompt_tokens: int
    max_completion_tokens: int
    keep_checkpoints: int
    validate_every: int
    validation_examples: int

    @property
    def itemsize(self) -> int:
        """Return the bytes of a number in the compute dtype."""
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def row_tokens(self) -> int:
        """Return the least that a pack must hold."""
        return self.max_prompt_tokens + self.max_completion_tokens
