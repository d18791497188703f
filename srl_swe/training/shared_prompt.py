"""Attention of rollouts that share a prompt's keys and values, each seeing its own besides.

Registered with transformers; a batch is one row of the tokens of all slots. Leaves out what is sampled when
(`transformers_sampler.py`).
n = rollouts of one prompt that are decoded now.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from srl_swe.training.attend import additive, attend, fold, unfold
from srl_swe.training.layer_masks import LayerMask, layer_mask

ATTENTION_NAME = "srl_swe_shared_prompt"


@dataclass(slots=True)
class Draft:
    """A completion in the making."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Slot:
    """A prompt being decoded: its cache, and its rollouts."""

    index: int
    prompt: Sequence[int]
    capacity: int
    """Columns of the cache: the prompt's, then n per decoded token."""
    uniforms: Tensor
    drafts: list[Draft]
    live: list[int] = field(init=False)
    """Rollouts that have not ended."""
    length: int = 0
    """Tokens drawn by each live rollout."""
    cache: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Keys and values of each layer, [1, key-value heads, capacity, width]; heads and widths are the layer's own."""
    columns: int = 0
    mask: Tensor | None = None
    """Additive, [rollouts of the slot, capacity]; None while the prompt is prefilled."""
    positions: Tensor | None = None
    """Of each column's token in its row."""
    seen: dict[LayerMask | None, Tensor] = field(default_factory=dict)
    """The mask of the step at hand, or of the prefill, in the layers of each kind, once for each query head of a
    key-value head."""

    def __post_init__(self) -> None:
        self.live = list(range(len(self.drafts)))

    def admit_columns(self, device: torch.device, dtype: torch.dtype) -> None:
        """Let each live rollout see the column that its last token is about to fill."""
        if self.mask is None:
            self.mask = torch.full((len(self.drafts), self.capacity), -torch.inf, dtype=dtype, device=device)
            self.mask[:, : len(self.prompt)] = 0
            self.positions = torch.arange(self.capacity, device=device)
        assert self.positions is not None
        added = torch.arange(len(self.live), device=device) + self.columns
        self.mask[torch.tensor(self.live, device=device), added] = 0
        self.positions[added] = len(self.prompt) + self.length - 1
        self.seen.clear()

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: LayerMask,
        *,
        scaling: float | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Store keys and values [heads, n, width] behind the cached columns and attend to what is visible."""
        groups = key.shape[0]
        end = self.columns + key.shape[1]
        if layer not in self.cache:
            room = (1, groups, self.capacity)
            self.cache[layer] = key.new_empty(*room, key.shape[-1]), value.new_empty(*room, value.shape[-1])
        keys, values = self.cache[layer]
        keys[0, :, self.columns : end] = key
        values[0, :, self.columns : end] = value
        heads = query.shape[0]
        repeats = heads // groups
        if self.mask is None and mask.is_causal and softcap is None and sinks is None:
            return functional.scaled_dot_product_attention(
                query[None],
                key[None].repeat_interleave(repeats, 1),
                value[None].repeat_interleave(repeats, 1),
                is_causal=True,
                scale=scaling,
            )[0]
        bias = self._bias(mask, end, repeats, query)
        folded = fold(query[None], groups)
        seen = keys[:, :, :end], values[:, :, :end]
        return unfold(attend(folded, *seen, bias, scaling=scaling, softcap=softcap, sinks=sinks), heads)[0]

    def _bias(self, mask: LayerMask, end: int, repeats: int, query: Tensor) -> Tensor:
        """Return what is added to the scores of the step's queries, made once for all layers of this kind."""
        kind = None if mask.is_causal else mask
        if kind not in self.seen:
            self.seen[kind] = self._new_bias(kind, end, query).repeat(repeats, 1)
        return self.seen[kind]

    def _new_bias(self, kind: LayerMask | None, end: int, query: Tensor) -> Tensor:
        if self.mask is None:
            places = torch.arange(end, device=query.device)
            seen = places <= places[:, None]
            if kind is not None:
                seen &= kind.allows(places[:, None], places)
            return additive(seen, query.dtype)
        assert self.positions is not None
        bias = self.mask[self.live, :end]
        if kind is not None:
            place = torch.full((), len(self.prompt) + self.length - 1, device=query.device)
            bias = bias.masked_fill(~kind.allows(place, self.positions[:end]), -torch.inf)
        return bias


def _shared_prompt_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: LayerMask,
    *,
    srl_swe_slots: list[Slot],
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attend slot by slot; the batch is one row of all slots' tokens."""
    sizes = [len(slot.live) for slot in srl_swe_slots] if srl_swe_slots[0].mask is not None else [query.shape[2]]
    tensors = (torch.split(tensor[0], sizes, 1) for tensor in (query, key, value))
    parts = zip(srl_swe_slots, *tensors, strict=True)
    outs = [
        slot.attend(module.layer_idx, q, k, v, attention_mask, scaling=scaling, softcap=softcap, sinks=s_aux)
        for slot, q, k, v in parts
    ]
    return torch.cat(outs, dim=1).transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(ATTENTION_NAME, _shared_prompt_attention)
AttentionMaskInterface.register(ATTENTION_NAME, layer_mask)
