"""The forward pass of a packed token tree: log-probabilities of its targets, and nothing of the size of T x V.

A module of its own, so that Accelerate can wrap it as a whole: what runs in the model runs inside `forward`.
T = tokens of a pack, N = nodes with a target, H = hidden size, V = vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from srl_swe.training.config import Attention
from srl_swe.training.flex_tree import FlexAttention
from srl_swe.training.head import output_logits
from srl_swe.training.layer_masks import unpadded
from srl_swe.training.prefix_tree import Pack
from srl_swe.training.tree_attention import BlockAttention, TreeAttention

LOGIT_CHUNK = 1024
"""Nodes whose logits exist at once: 1,024 x 49,152 float32 are 200 MB."""


class TreeScorer(nn.Module):
    """A causal language model that reads packs instead of rows."""

    def __init__(self, model: Any, compute_dtype: torch.dtype, *, attention: Attention = "auto") -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = compute_dtype
        self.attention = attention
        # Read by Accelerate: the layers that FSDP shards one by one.
        self._no_split_modules = model._no_split_modules
        # transformers adds sinks behind FlexAttention, from log-sums that it rounds to the compute dtype.
        self._has_sinks = any(name.endswith(".sinks") for name, _ in model.named_parameters())

    @property
    def by_flex(self) -> bool:
        """Whether trees attend by FlexAttention."""
        by_default = self.model.device.type == "cuda" and not self._has_sinks
        return self.attention == "flex" or (self.attention == "auto" and by_default)

    def forward(self, pack: Pack, *, temperature: float = 1.0, with_entropies: bool = False) -> tuple[Tensor, ...]:
        """Return the log-probability of each target node given its ancestors, [N] in float32; maybe entropies besides.

        Logits are computed for target nodes only, in chunks that are recomputed in the backward pass. Entropies are
        of the distribution that a target was one draw of, in nats, and detached.
        """
        device = self.model.device
        ids_T, positions_T = pack.token_ids_T.to(device), pack.positions_T.to(device)
        tree: TreeAttention
        if self.by_flex:
            tree = flex = FlexAttention(pack, device=device, dtype=self.compute_dtype)
            ids_T, positions_T = flex.padded(ids_T), flex.padded(positions_T)
        else:
            tree = BlockAttention(pack, device=device, dtype=self.compute_dtype)
        pack = pack.to(device)
        head = self._logprobs_and_entropies if with_entropies else self._logprobs
        with torch.autocast(device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32):
            hidden_TH = self.model.base_model(
                input_ids=ids_T[None],
                attention_mask=unpadded(len(ids_T), device),
                srl_swe_tree=tree,
                position_ids=positions_T[None],
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
        logits_NV = output_logits(self.model, hidden_NH)
        if temperature != 1.0:
            logits_NV = logits_NV / temperature
        return -functional.cross_entropy(logits_NV, tokens_N, reduction="none"), logits_NV
