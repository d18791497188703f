"""Who sees whom in a model's layers, as the model itself says it: by positions in a row.

transformers hands every model's masks (causal, sliding windows, chunks) to the attention as functions of two positions.
A tree, or a cache that rollouts share, applies them to positions in the row, whatever place a token has in memory.
Leaves out the attention itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, sdpa_mask

MaskFunction = Callable[[Any, Any, Any, Any], Any]
"""Of batch, head, query position and key position."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerMask:
    """What the layers of one kind get in place of a mask."""

    function: MaskFunction
    arguments: Mapping[str, Any]
    """Of transformers' own mask functions."""

    @property
    def is_causal(self) -> bool:
        """Whether every position sees all before it."""
        return self.function is causal_mask_function

    def allows(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return whether positions see positions; the two tensors are broadcast against each other."""
        first = torch.zeros((), dtype=torch.long, device=queries.device)
        allowed: Tensor = self.function(first, first, queries, keys)
        return allowed

    def of_rows(self, *, always: bool = False) -> Tensor | None:
        """Return the mask of a batch of rows, true where a key is seen: [batch, 1, queries, keys].

        None stands for a plain causal mask, unless `always`.
        """
        changes = {"allow_is_causal_skip": False} if always else {}
        mask: Tensor | None = sdpa_mask(**{**self.arguments, **changes})
        return mask


def layer_mask(**arguments: Any) -> LayerMask:
    """Stand where transformers makes masks."""
    return LayerMask(function=arguments.get("mask_function", causal_mask_function), arguments=arguments)


def unpadded(num_tokens: int, device: torch.device) -> Tensor:
    """Return an attention mask without padding: [1, tokens].

    Without one, transformers takes positions that begin anew for rows of their own.
    """
    return torch.ones(1, num_tokens, dtype=torch.bool, device=device)
