"""Optimizer updates from one batch: packs, losses, gradients, one AdamW step per part of the batch."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from srl_swe.errors import DivergenceError
from srl_swe.training.batches import Batch
from srl_swe.training.config import TrainConfig
from srl_swe.training.objective import clipped_loss, likelihood_loss
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Pack, pack_rows


def update_policy(
    policy: Policy,
    batch: Batch,
    *,
    optimizer: torch.optim.Optimizer,
    accelerator: Any,
    learning_rate: float,
    config: TrainConfig,
) -> dict[str, float]:
    """Train on a batch and return metrics.

    Raises:
        DivergenceError: a loss or a gradient norm is not finite; the weights are left as they were.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    parts = _split(batch, config)
    # With one update the policy is the old policy. With several, the old log-probabilities are those before the first.
    old = [[_old_logprobs(policy, pack, config) for pack in packs] for packs in parts] if len(parts) > 1 else None
    totals: dict[str, float] = {}
    for part, packs in enumerate(parts):
        optimizer.zero_grad(set_to_none=True)
        num_rows = sum(len(pack.row_indices) for pack in packs)
        num_targets = sum(int(pack.mask_SL.sum()) for pack in packs)
        for place, pack in enumerate(packs):
            logprobs_N = policy.logprobs(pack, temperature=config.temperature if batch.advantages else 1.0)
            old_N = old[part][place] if old else logprobs_N.detach()
            loss, counts = pack_loss(
                batch, pack, logprobs_N, old_N, num_rows=num_rows, num_targets=num_targets, config=config
            )
            _require_finite("loss", loss, learning_rate)
            accelerator.backward(loss)
            for name, count in {"loss": float(loss.detach()), **counts}.items():
                totals[name] = totals.get(name, 0.0) + count
            totals["tree_tokens"] = totals.get("tree_tokens", 0.0) + pack.num_tokens
            totals["row_tokens"] = totals.get("row_tokens", 0.0) + pack.num_row_tokens
        norm = accelerator.clip_grad_norm_(policy.model.parameters(), config.max_grad_norm)
        _require_finite("gradient norm", norm, learning_rate)
        optimizer.step()
        totals["grad_norm"] = totals.get("grad_norm", 0.0) + float(norm)
    optimizer.zero_grad(set_to_none=True)
    num_updates = len(parts)
    totals["loss"] /= num_updates
    totals["grad_norm"] /= num_updates
    if batch.advantages:
        num_tokens = totals.pop("targets")
        totals["clipped_share"] = totals.pop("clipped") / num_tokens
        totals["log_ratio_mean"] = totals.pop("log_ratio") / num_tokens
    metrics = {f"train/{name}": value for name, value in totals.items()}
    return metrics | {"train/learning_rate": learning_rate, "train/updates": num_updates}


def _split(batch: Batch, config: TrainConfig) -> list[list[Pack]]:
    """Cut a batch into the parts of its updates, whole groups at a time, and each part into packs."""
    num_groups = len(batch.rows) // batch.rows_per_group
    num_parts = min(config.updates_per_iteration, num_groups)
    bounds = [batch.rows_per_group * (num_groups * part // num_parts) for part in range(num_parts + 1)]
    parts = []
    for start, end in pairwise(bounds):
        parts.append(pack_rows(batch.rows, range(start, end), tokens_per_pack=config.tokens_per_pack))
    return parts


@torch.no_grad()
def _old_logprobs(policy: Policy, pack: Pack, config: TrainConfig) -> Tensor:
    return policy.logprobs(pack, temperature=config.temperature)


def pack_loss(
    batch: Batch,
    pack: Pack,
    logprobs_N: Tensor,
    old_N: Tensor,
    *,
    num_rows: int,
    num_targets: int,
    config: TrainConfig,
) -> tuple[Tensor, dict[str, float]]:
    """Return this pack's share of the loss: mean over rollouts (SRL) or over target tokens (SFT)."""
    device = logprobs_N.device
    mask_SL = pack.mask_SL.to(device)
    logprobs_SL = gather_rows(logprobs_N, pack)
    if batch.advantages is None:
        return likelihood_loss(logprobs_SL, mask_SL).sum() / num_targets, {}
    advantages_S = torch.tensor([batch.advantages[index] for index in pack.row_indices], device=device)
    clipped = clipped_loss(logprobs_SL, gather_rows(old_N, pack), advantages_S, mask_SL, clip_range=config.clip_range)
    counts = {
        "clipped": float(clipped.num_clipped),
        "log_ratio": float(clipped.log_ratio_sum),
        "targets": float(mask_SL.sum()),
    }
    return clipped.loss_S.sum() / num_rows, counts


def gather_rows(logprobs_N: Tensor, pack: Pack) -> Tensor:
    """Return the log-probabilities row by row, [S, L]; what lies outside the mask is arbitrary."""
    flat = logprobs_N.index_select(0, pack.targets_SL.to(logprobs_N.device).flatten())
    return flat.view(pack.targets_SL.shape)


def _require_finite(what: str, number: Tensor, learning_rate: float) -> None:
    if not bool(torch.isfinite(number).all()):
        raise DivergenceError(
            f"the {what} is {float(number.detach())} at learning rate {learning_rate:g}: training diverged. The last "
            "checkpoint is intact; start again from it or from the model with a smaller learning rate, or with dtype "
            "float32."
        )
