"""Attention over one set of keys: by SDPA, or written out where a model caps its scores or has sinks, which SDPA lacks.

Query heads that share a key-value head are laid out as further queries of it, so that keys are never copied.
G = key-value heads, R = query heads of each, Q, K = queries and keys, W = head width.
"""

import torch
from torch import Tensor
from torch.nn import functional


def fold(query: Tensor, num_key_value_heads: int) -> Tensor:
    """[1, G * R, Q, W] -> [1, G, R * Q, W]."""
    return query.reshape(1, num_key_value_heads, -1, query.shape[-1])


def unfold(out: Tensor, num_heads: int) -> Tensor:
    """[1, G, R * Q, W] -> [1, G * R, Q, W]."""
    return out.reshape(1, num_heads, -1, out.shape[-1])


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where a query sees a key and else minus infinity, of the shape of `seen`."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    *,
    scaling: float | None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Return what folded queries see, folded as well.

    `bias` is added to the scores, of shape [R * Q, K] or one that broadcasts to it. `softcap` bounds the scores by a
    tanh. `sinks` has a further score for each query head, which takes its share of the weights and gives nothing.
    """
    if softcap is None and sinks is None:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scaling)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    scores = scores + bias
    if sinks is not None:
        heads = key.shape[1]
        sinks_GR = sinks.reshape(heads, -1, 1).expand(-1, -1, query.shape[2] * heads // len(sinks))
        scores = torch.cat([scores, sinks_GR.reshape(1, heads, -1, 1).to(scores.dtype)], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    return (weights if sinks is None else weights[..., :-1]) @ value
