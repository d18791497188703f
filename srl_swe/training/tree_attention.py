"""Attention of packed token trees: each token sees its ancestors, as far as its layer lets it.

Registered with transformers under one name; which way it goes is decided by what the scorer passes along.
T = tokens of a pack, Q, K = queries and keys of a block, R = query heads per key-value head.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from srl_swe.errors import ModelError
from srl_swe.training.attend import additive, attend, fold, unfold
from srl_swe.training.layer_masks import LayerMask, layer_mask
from srl_swe.training.prefix_tree import AttentionBlock, Pack

ATTENTION_NAME = "srl_swe_tree"
ALIGNMENT = 8
"""SDPA's kernels on GPUs copy a mask whose rows are no multiple of this apart, in every layer."""


class TreeAttention(Protocol):
    """One pack's attention, shared by all layers."""

    def attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: LayerMask,
        *,
        scaling: float | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Return [1, heads, T, width] for queries, keys and values of such shapes."""
        ...


class BlockAttention:
    """By SDPA, block by block of queries, each with the keys that it needs and an additive mask."""

    def __init__(self, pack: Pack, *, device: torch.device, dtype: torch.dtype) -> None:
        self._pack = pack
        self._device = device
        self._dtype = dtype
        self._blocks: dict[tuple[LayerMask | None, int], list[tuple[AttentionBlock, Tensor]]] = {}

    def attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: LayerMask,
        *,
        scaling: float | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Return [1, heads, T, width]."""
        num_heads, groups = query.shape[1], key.shape[1]
        outs = []
        for block, bias in self._masked_blocks(mask, num_heads // groups):
            keys, values = (
                torch.cat([tensor[:, :, start:end] for start, end in block.key_runs], dim=2) for tensor in (key, value)
            )
            folded = fold(query[:, :, block.start : block.end], groups)
            out = attend(folded, keys, values, bias, scaling=scaling, softcap=softcap, sinks=sinks)
            outs.append(unfold(out, num_heads))
        return torch.cat(outs, dim=2)

    def _masked_blocks(self, mask: LayerMask, repeats: int) -> list[tuple[AttentionBlock, Tensor]]:
        """Return the blocks of the layers of one kind, made once for all of them."""
        key = (None if mask.is_causal else mask, repeats)
        if key not in self._blocks:
            blocks = self._pack.attention_blocks(None if mask.is_causal else mask.allows)
            self._blocks[key] = [(block, self._bias(block, repeats)) for block in blocks]
        return self._blocks[key]

    def _bias(self, block: AttentionBlock, repeats: int) -> Tensor:
        """Return the block's additive mask, once for each query head that shares a key-value head: [R * Q, K].

        SDPA would make one of a boolean mask in every layer, and keep each of them for the backward pass.
        """
        num_queries, num_keys = block.mask_QK.shape
        width = -(-num_keys // ALIGNMENT) * ALIGNMENT
        bias = torch.zeros(repeats, num_queries, width, dtype=self._dtype, device=self._device)
        bias[:, :, :num_keys].masked_fill_(~block.mask_QK.to(self._device), -torch.inf)
        return bias.view(repeats * num_queries, width)[:, :num_keys]


def tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: LayerMask | Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    srl_swe_tree: TreeAttention | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as a layer of a transformers model asks: in a packed tree, or, without one, in rows.

    Raises:
        ModelError: the layer's attention is of a kind that cannot be held to a tree.
    """
    if options.get("position_bias") is not None or not (srl_swe_tree is None or isinstance(attention_mask, LayerMask)):
        raise ModelError(
            f"{type(module).__name__} makes masks or biases of its own, so that tokens of one branch would see another"
        )
    if srl_swe_tree is not None and isinstance(attention_mask, LayerMask):
        out = srl_swe_tree.attend(
            module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, sinks=s_aux
        )
        return out.transpose(1, 2).contiguous(), None
    if softcap is None and s_aux is None:
        mask = attention_mask.of_rows() if isinstance(attention_mask, LayerMask) else attention_mask
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **options)
    return _rows(query, key, value, attention_mask, scaling=scaling, softcap=softcap, sinks=s_aux), None


def _rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: LayerMask | Tensor | None,
    *,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attend row by row where SDPA cannot: [batch, queries, heads, width]."""
    visible = mask.of_rows(always=True) if isinstance(mask, LayerMask) else mask
    if visible is None:
        visible = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    outs = []
    for row, queries in enumerate(query):
        seen = visible[min(row, len(visible) - 1), 0]
        bias = additive(seen, query.dtype).repeat(query.shape[1] // key.shape[1], 1)
        folded = fold(queries[None], key.shape[1])
        out = attend(folded, key[row, None], value[row, None], bias, scaling=scaling, softcap=softcap, sinks=sinks)
        outs.append(unfold(out, query.shape[1]))
    return torch.cat(outs).transpose(1, 2).contiguous()


AttentionInterface.register(ATTENTION_NAME, tree_attention)
AttentionMaskInterface.register(ATTENTION_NAME, layer_mask)
