"""The forward pass of a packed token tree: log-probabilities of its targets, and nothing of the size of T x V.

A module of its own, so that Accelerate can wrap it as a whole: what runs in the model runs inside `forward`.
T = tokens of a pack, N = nodes with a target, R = query heads per key-value head, Q, K = queries and keys of a block,
H = hidden size, V = vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from srl_swe.training.prefix_tree import AttentionBlock, Pack

LOGIT_CHUNK = 1024
"""Nodes whose logits exist at once: 1,024 x 49,152 float32 are 200 MB."""

ATTENTION_NAME = "srl_swe_tree"
UNUSED_MASK = torch.zeros(1, 1, 1, 1)
"""Four dimensions keep transformers from making a mask of its own."""


def _tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    srl_swe_blocks: Sequence[tuple[AttentionBlock, Tensor]] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend block by block of a packed tree; without blocks, as transformers' SDPA does."""
    if srl_swe_blocks is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    outs = []
    heads, width = key.shape[1], key.shape[3]
    for block, bias in srl_swe_blocks:
        keys, values = (
            torch.cat([tensor[:, :, start:end] for start, end in block.key_runs], dim=2) for tensor in (key, value)
        )
        # Query heads that share a key-value head are laid out as further queries of it: no copies of keys.
        folded = query[:, :, block.start : block.end].reshape(1, heads, -1, width)
        out = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=bias, scale=scaling)
        outs.append(out.reshape(1, query.shape[1], -1, out.shape[-1]))
    return torch.cat(outs, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, _tree_attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


class TreeScorer(nn.Module):
    """A causal language model that reads packs instead of rows."""

    def __init__(self, model: Any, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = compute_dtype
        # Read by Accelerate: the layers that FSDP shards one by one.
        self._no_split_modules = model._no_split_modules

    def forward(self, pack: Pack, *, temperature: float = 1.0, with_entropies: bool = False) -> tuple[Tensor, ...]:
        """Return the log-probability of each target node given its ancestors, [N] in float32; maybe entropies besides.

        Logits are computed for target nodes only, in chunks that are recomputed in the backward pass. Entropies are
        of the distribution that a target was one draw of, in nats, and detached.
        """
        device = self.model.device
        pack = pack.to(device)
        blocks = [(block, self._bias(block, device)) for block in pack.attention_blocks()]
        head = self._logprobs_and_entropies if with_entropies else self._logprobs
        with torch.autocast(device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32):
            hidden_TH = self.model.base_model(
                input_ids=pack.token_ids_T[None],
                attention_mask=UNUSED_MASK,
                srl_swe_blocks=blocks,
                position_ids=pack.positions_T[None],
                use_cache=False,
            ).last_hidden_state[0]
            # index_select, not indexing: its backward adds in a fixed order, which exact resume needs.
            hidden_NH = hidden_TH.index_select(0, pack.parents_T[pack.target_nodes_N])
            tokens_N = pack.token_ids_T[pack.target_nodes_N]
            chunks = zip(torch.split(hidden_NH, LOGIT_CHUNK), torch.split(tokens_N, LOGIT_CHUNK), strict=True)
            if len(tokens_N) <= LOGIT_CHUNK:
                parts = [head(hidden, tokens, temperature) for hidden, tokens in chunks]
            else:
                parts = [
                    checkpoint(head, hidden, tokens, temperature, use_reentrant=False) for hidden, tokens in chunks
                ]
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def _logprobs(self, hidden_NH: Tensor, tokens_N: Tensor, temperature: float) -> tuple[Tensor, ...]:
        return (self._head(hidden_NH, tokens_N, temperature)[0],)

    def _logprobs_and_entropies(self, hidden_NH: Tensor, tokens_N: Tensor, temperature: float) -> tuple[Tensor, ...]:
        logprobs_N, logits_NV = self._head(hidden_NH, tokens_N, temperature)
        # Last, so that recomputing a chunk for the backward pass stops before it.
        with torch.no_grad():
            distribution_NV = logits_NV.log_softmax(-1)
            return logprobs_N, -(distribution_NV.exp() * distribution_NV).sum(-1)

    def _head(self, hidden_NH: Tensor, tokens_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits_NV = self.model.get_output_embeddings()(hidden_NH).float()
        if temperature != 1.0:
            logits_NV = logits_NV / temperature
        return -functional.cross_entropy(logits_NV, tokens_N, reduction="none"), logits_NV

    def _bias(self, block: AttentionBlock, device: torch.device) -> Tensor:
        """Return the block's additive mask, once for each query head that shares a key-value head: [R * Q, K].

        SDPA would make one of a boolean mask in every layer, and keep each of them for the backward pass.
        """
        config = self.model.config
        repeats = config.num_attention_heads // config.num_key_value_heads
        bias_QK = torch.zeros(block.mask_QK.shape, dtype=self.compute_dtype).masked_fill_(~block.mask_QK, -torch.inf)
        return bias_QK.to(device).repeat(repeats, 1)
