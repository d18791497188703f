# ruff: noqa: N815 -- tensor shape suffixes are upper case
"""The losses, as pure functions on padded tensors.

S = sequences, L = longest completion. Leaves out how log-probabilities come about and how the
losses of several packs add up. Source of the clipped objective: arXiv 2510.25992, section 3 (GRPO: token
ratios, mean over rollouts of the per-sequence token mean, no KL term).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ClippedLoss:
    """What `clipped_loss` returns; all but `loss_S` are detached counts for metrics."""

    loss_S: Tensor
    """Mean over the tokens of each sequence; the objective is its mean over the rollouts of the batch."""
    num_clipped: Tensor
    """Tokens whose gradient the clip removed."""
    log_ratio_sum: Tensor
    """Sum of log(policy / old) over the tokens."""


def clipped_loss(
    logprobs_SL: Tensor, old_logprobs_SL: Tensor, advantages_S: Tensor, mask_SL: Tensor, *, clip_range: float
) -> ClippedLoss:
    """Return the clipped policy-gradient loss of each sequence.

    Example: ratio 1.5, advantage 1, clip range 0.2 -> token loss -1.2 without gradient; with
    advantage -1 -> 1.5 with gradient. `mask_SL` is true where there is a token.
    """
    log_ratio_SL = torch.where(mask_SL, logprobs_SL - old_logprobs_SL, 0.0)
    ratio_SL = log_ratio_SL.exp()
    advantages_S1 = advantages_S.unsqueeze(1)
    free_SL = ratio_SL * advantages_S1
    held_SL = ratio_SL.clamp(1 - clip_range, 1 + clip_range) * advantages_S1
    token_loss_SL = torch.where(mask_SL, -torch.minimum(free_SL, held_SL), 0.0)
    return ClippedLoss(
        loss_S=token_loss_SL.sum(1) / mask_SL.sum(1),
        num_clipped=((held_SL < free_SL) & mask_SL).sum().detach(),
        log_ratio_sum=log_ratio_SL.sum().detach(),
    )


def likelihood_loss(logprobs_SL: Tensor, mask_SL: Tensor) -> Tensor:
    """Return the negative log-likelihood of each sequence, summed over its tokens: shape [S]."""
    return -torch.where(mask_SL, logprobs_SL, 0.0).sum(1)
