"""Attention of packed token trees by FlexAttention: no mask of T x T entries.

Who sees whom is two comparisons per pair (the descendants of a node are contiguous), and what the layer says besides.
transformers repeats keys and values for it where the number of query heads is no power of two.
FlexAttention has no backward pass on CPUs: there this serves tests alone.
T = tokens of a pack, padded to whole blocks.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask
from transformers.integrations.flex_attention import flex_attention_forward

from srl_swe.training.layer_masks import LayerMask, MaskFunction
from srl_swe.training.prefix_tree import Pack

BLOCK = 128
"""FlexAttention's own: tokens of a block of queries and of keys."""


MIN_BLOCKS = 2
"""Of a pack: torch compiles a length of one block apart from all others, and does so a few times only."""


class FlexAttention:
    """One pack's attention by FlexAttention; queries, keys and values are padded to `num_padded` tokens."""

    def __init__(self, pack: Pack, *, device: torch.device, dtype: torch.dtype) -> None:
        self.num_padded = max(-(-pack.num_tokens // BLOCK), MIN_BLOCKS) * BLOCK
        self._dtype = dtype
        # A token of the padding is a tree of its own: it sees itself, and nobody sees it.
        alone = torch.arange(pack.num_tokens, self.num_padded) + 1
        self._ends_T = torch.cat([pack.ends_T.cpu(), alone]).to(device)
        self._positions_T = self.padded(pack.positions_T.to(device))
        self._masks: dict[LayerMask | None, BlockMask] = {}

    def padded(self, tensor_T: Tensor) -> Tensor:
        """Return token ids or positions with the padding: [T]."""
        return functional.pad(tensor_T, (0, self.num_padded - len(tensor_T)))

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
        kind = None if mask.is_causal else mask
        if kind not in self._masks:
            sees = sees_ancestors(self._ends_T, self._positions_T, mask)
            self._masks[kind] = make_block_mask(sees, self.num_padded, device=query.device)
        # Autocast leaves rotated queries and keys in float32, and does not know this function.
        query, key, value = (tensor.to(self._dtype) for tensor in (query, key, value))
        out, _ = flex_attention_forward(
            module, query, key, value, self._masks[kind], scaling=scaling, softcap=softcap, s_aux=sinks
        )
        return out.transpose(1, 2)


def sees_ancestors(ends_T: Tensor, positions_T: Tensor, mask: LayerMask) -> MaskFunction:
    """Return whether a query's node is a key's node or a descendant of it, and what the layer's mask says besides."""
    if mask.is_causal:

        def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
            return (key <= query) & (query < ends_T[key])
    else:
        function = mask.function

        def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
            below = (key <= query) & (query < ends_T[key])
            return below & function(batch, head, positions_T[query], positions_T[key])

    return sees


def make_block_mask(sees: MaskFunction, num_tokens: int, *, device: torch.device) -> BlockMask:
    """Return which blocks of keys each block of queries sees, wholly or in part.

    As torch's `create_block_mask`, which makes a mask of T x T entries on the way; this looks at one block of queries
    at a time. `num_tokens` is a multiple of BLOCK.
    """
    count = num_tokens // BLOCK
    some, every = (torch.zeros(count, count, dtype=torch.bool, device=device) for _ in range(2))
    first = torch.zeros((), dtype=torch.long, device=device)
    for block in range(count):
        queries = torch.arange(block * BLOCK, (block + 1) * BLOCK, device=device)[:, None]
        keys = torch.arange((block + 1) * BLOCK, device=device)
        seen = sees(first, first, queries, keys).view(BLOCK, block + 1, BLOCK)
        some[block, : block + 1] = seen.any(2).any(0)
        every[block, : block + 1] = seen.all(2).all(0)
    partly, wholly = _listed(some & ~every), _listed(every)
    return BlockMask.from_kv_blocks(*partly, *wholly, BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(num_tokens,) * 2)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks of keys each block of queries has, [1, 1, n], and which first: [1, 1, n, n]."""
    counts = blocks.sum(-1, dtype=torch.int32)
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return counts[None, None], order[None, None]
