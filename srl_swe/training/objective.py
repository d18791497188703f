# ruff: noqa: N815 -- tensor shape suffixes are upper case
"""The losses, as pure functions on padded tensors.

S = sequences, L = longest completion. Leaves out how log-probabilities come about and how the
losses of several packs add up. A named loss is a clipped loss per token and a way to average it:

| name | ratio and clip | average | source |
|---|---|---|---|
| grpo | per token | per sequence, then over rollouts | arXiv 2510.25992, section 3; arXiv 2402.03300 |
| dapo | per token, upper limit of its own | over all tokens of the update | arXiv 2503.14476 |
| dr_grpo | per token | sum of tokens over a constant length; advantages without the std | arXiv 2503.20783 |
| gspo | per sequence: geometric mean of the token ratios | over rollouts | arXiv 2507.18071 |
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from srl_swe.training.config import Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class ClippedLoss:
    """What `clipped_loss` returns; all but `loss_SL` are detached counts for metrics."""

    loss_SL: Tensor
    """Loss of each token, 0 outside the mask; with a ratio per sequence all tokens of a sequence have its loss."""
    num_clipped_low: Tensor
    """Tokens whose gradient the lower limit removed (advantage below 0)."""
    num_clipped_high: Tensor
    """Tokens whose gradient the upper limit removed (advantage above 0)."""
    log_ratio_sum: Tensor
    """Sum of log(policy / old) over the tokens."""


def clipped_loss(
    logprobs_SL: Tensor,
    old_logprobs_SL: Tensor,
    advantages_S: Tensor,
    mask_SL: Tensor,
    *,
    clip_range: float,
    clip_range_high: float,
    by_sequence: bool = False,
) -> ClippedLoss:
    """Return the clipped policy-gradient loss of each token, the ratio held in [1 - low, 1 + high].

    Example: ratio 1.5, advantage 1, both ranges 0.2 -> token loss -1.2 without gradient; with
    advantage -1 -> 1.5 with gradient. `mask_SL` is true where there is a token. `by_sequence` takes one ratio per
    sequence, exp of the mean log-ratio of its tokens.
    """
    log_ratio_SL = torch.where(mask_SL, logprobs_SL - old_logprobs_SL, 0.0)
    ratio_SL = log_ratio_SL.exp()
    if by_sequence:
        ratio_SL = _token_mean(log_ratio_SL, mask_SL).exp().unsqueeze(1).expand_as(log_ratio_SL)
    advantages_S1 = advantages_S.unsqueeze(1)
    free_SL = ratio_SL * advantages_S1
    held_SL = ratio_SL.clamp(1 - clip_range, 1 + clip_range_high) * advantages_S1
    clipped_SL = (held_SL < free_SL) & mask_SL
    return ClippedLoss(
        loss_SL=torch.where(mask_SL, -torch.minimum(free_SL, held_SL), 0.0),
        num_clipped_low=(clipped_SL & (advantages_S1 < 0)).sum().detach(),
        num_clipped_high=(clipped_SL & (advantages_S1 > 0)).sum().detach(),
        log_ratio_sum=log_ratio_SL.sum().detach(),
    )


def importance_weights(
    logprobs_SL: Tensor, sampling_logprobs_SL: Tensor, mask_SL: Tensor, *, cap: float
) -> tuple[Tensor, Tensor]:
    """Return min(ratio, cap) and the ratio of each token's probability under the policy to that under its sampler.

    Weighting a token's loss by the first corrects for an engine that rounds otherwise than the policy it samples from.
    Example: probabilities 0.6 and 0.2, cap 2 -> 2 and 3. Both are detached, and 1 outside the mask.
    """
    ratio_SL = torch.where(mask_SL, logprobs_SL - sampling_logprobs_SL, 0.0).detach().exp()
    return ratio_SL.clamp(max=cap), ratio_SL


def divergence(logprobs_SL: Tensor, other_logprobs_SL: Tensor, mask_SL: Tensor) -> Tensor:
    """Return the k3 estimate of KL(policy || other) at each token of the policy: other/policy - 1 - log(other/policy).

    Never negative, unbiased where the tokens are the policy's own, 0 outside the mask. Example: probabilities 0.5
    and 0.25 -> 0.5 - 1 - log 0.5 = 0.193. Source: joschu.net/blog/kl-approx.html, as GRPO uses it.
    """
    log_ratio_SL = torch.where(mask_SL, other_logprobs_SL - logprobs_SL, 0.0)
    return log_ratio_SL.exp() - 1 - log_ratio_SL


def average_loss(
    loss_SL: Tensor,
    mask_SL: Tensor,
    *,
    loss: Loss,
    num_rows: float,
    num_targets: int,
    max_completion_tokens: int,
    weights_S: Tensor | None = None,
) -> Tensor:
    """Return what these sequences add to the loss of an update that has so many rows and target tokens in all.

    Example: token losses [[1, 3], [5, -]] and nothing else in the update: grpo and gspo (2 + 5) / 2, dapo 9 / 3,
    dr_grpo with a limit of 4 tokens 9 / (2 * 4).

    `weights_S` says for rows that are parts of one episode which share of its tokens each has; `num_rows` is then the
    number of episodes. Example: both rows above are one episode, weights 2/3 and 1/3: grpo (2 * 2/3 + 5 * 1/3) / 1,
    the mean of its three tokens.
    """
    if loss == "dapo":
        return loss_SL.sum() / max(num_targets, 1)
    if loss == "dr_grpo":
        return loss_SL.sum() / (num_rows * max_completion_tokens)
    mean_S = _token_mean(loss_SL, mask_SL)
    return (mean_S if weights_S is None else mean_S * weights_S).sum() / num_rows


def likelihood_loss(logprobs_SL: Tensor, mask_SL: Tensor) -> Tensor:
    """Return the negative log-likelihood of each sequence, summed over its tokens: shape [S]."""
    return -torch.where(mask_SL, logprobs_SL, 0.0).sum(1)


def _token_mean(values_SL: Tensor, mask_SL: Tensor) -> Tensor:
    """Return each sequence's mean over its tokens; 0 where none counts."""
    return values_SL.sum(1) / mask_SL.sum(1).clamp(min=1)
