"""Optimizer updates from one batch: packs, losses, gradients, one AdamW step per part of the batch."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise

import torch
from torch import Tensor

from srl_swe.training.batches import Batch
from srl_swe.training.config import TrainConfig
from srl_swe.training.faults import memory_explained, require_finite
from srl_swe.training.objective import average_loss, clipped_loss, divergence, importance_weights, likelihood_loss
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Pack, pack_rows
from srl_swe.training.processes import Processes


def update_policy(
    policy: Policy,
    batch: Batch,
    *,
    optimizer: torch.optim.Optimizer,
    processes: Processes,
    learning_rate: float,
    config: TrainConfig,
    reference: Policy | None = None,
    before_step: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train on a batch and return metrics.

    `reference` is what the policy is held to where `kl_coef` is above 0. `before_step` is called each time before the
    weights change.

    Raises:
        DivergenceError: a loss or a gradient norm is not finite; that update was not done.
        MemoryExhaustedError: the memory does not hold a pack.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    parts = _split(batch, config)
    shares = [_share(packs, processes) for packs in parts]
    # With one update the policy is the old policy. With several, the old log-probabilities are those before the first.
    old = [[_frozen_logprobs(policy, p, config) for p, _ in s] for s in shares] if len(parts) > 1 else None
    totals: dict[str, float] = {}
    for part, (packs, share) in enumerate(zip(parts, shares, strict=True)):
        optimizer.zero_grad(set_to_none=True)
        num_rows = math.fsum(weight for pack in packs for weight in row_weights(batch, pack))
        num_targets = sum(int(counted_mask(batch, pack).sum()) for pack in packs)
        for place, (pack, weight) in enumerate(share):
            last = place == len(share) - 1
            with _explained(pack, config), processes.without_sync(policy, last=last):
                logprobs_N, entropies_N = _policy_logprobs(policy, pack, batch, config)
                old_N = old[part][place] if old else logprobs_N.detach()
                loss, counts = pack_loss(
                    batch,
                    pack,
                    logprobs_N,
                    old_N,
                    num_rows=num_rows,
                    num_targets=num_targets,
                    config=config,
                    reference_N=_frozen_logprobs(reference, pack, config) if reference else None,
                    entropies_N=entropies_N,
                )
                ids = [batch.example_ids[index] for index in pack.row_indices]
                require_finite("loss", loss, ids, learning_rate=learning_rate)
                # Accelerate's wrappers give the mean over processes; ours is a sum over packs.
                processes.backward(loss * weight * processes.count, last=last)
            sizes = {"tree_tokens": pack.num_tokens, "row_tokens": pack.num_row_tokens}
            for name, count in {"loss": float(loss.detach()), **counts, **sizes}.items():
                totals[name] = totals.get(name, 0.0) + count * weight
        with _explained(max(packs, key=lambda pack: pack.num_tokens), config):
            norm = processes.clip_gradients(policy, config.max_grad_norm)
            ids = [batch.example_ids[index] for pack in packs for index in pack.row_indices]
            require_finite("gradient norm", norm, ids, learning_rate=learning_rate)
            before_step()
            processes.step(optimizer)
        totals["grad_norm"] = totals.get("grad_norm", 0.0) + float(norm) / processes.count
    optimizer.zero_grad(set_to_none=True)
    totals = _summed(processes.gather([totals]))
    return _metrics(totals, len(parts)) | {"train/learning_rate": learning_rate, "train/updates": len(parts)}


def _share(packs: Sequence[Pack], processes: Processes) -> list[tuple[Pack, float]]:
    """Return this process's packs with weight 1; where others have one more, a small one with weight 0 stands in.

    Wrapped models wait for each other in each pass, so that all need the same number of them.
    """
    mine = [(pack, 1.0) for pack in processes.share(packs)]
    most = -(-len(packs) // processes.count)
    return mine + [(min(packs, key=lambda pack: pack.num_tokens), 0.0)] * (most - len(mine))


def _summed(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def _metrics(totals: dict[str, float], num_updates: int) -> dict[str, float]:
    """Turn sums into means: over updates, and per target token for what was counted by token."""
    totals["loss"] /= num_updates
    totals["grad_norm"] /= num_updates
    if "targets" in totals:
        num_tokens = max(totals.pop("targets"), 1)
        totals["clipped_share"] = (totals["clipped_low"] + totals["clipped_high"]) / num_tokens
        means = (
            ("clipped_low", "clipped_low_share"),
            ("clipped_high", "clipped_high_share"),
            ("log_ratio", "log_ratio_mean"),
            ("entropy", "entropy"),
            ("kl_to_sampler", "kl_to_sampler"),
            ("importance_ratio", "importance_ratio_mean"),
            ("importance_truncated", "importance_truncated_share"),
            ("kl_to_reference", "kl_to_reference"),
        )
        for name, mean in means:
            if name in totals:
                totals[mean] = totals.pop(name) / num_tokens
    return {f"train/{name}": value for name, value in totals.items()}


def _explained(pack: Pack, config: TrainConfig) -> AbstractContextManager[None]:
    sizes = {
        "tokens in the pack": pack.num_tokens,
        "tokens_per_pack": config.tokens_per_pack,
        "gradient_checkpointing": config.gradient_checkpointing,
        "kl_coef": config.kl_coef,
    }
    return memory_explained("training", sizes, advice="lower --tokens-per-pack, give --gradient-checkpointing")


def _split(batch: Batch, config: TrainConfig) -> list[list[Pack]]:
    """Cut a batch into the parts of its updates, whole groups at a time, and each part into packs."""
    ends = [0, *batch.group_ends()]
    num_groups = len(ends) - 1
    num_parts = min(config.updates_per_iteration, num_groups)
    bounds = [ends[num_groups * part // num_parts] for part in range(num_parts + 1)]
    parts = []
    for start, end in pairwise(bounds):
        parts.append(pack_rows(batch.rows, range(start, end), tokens_per_pack=config.tokens_per_pack))
    return parts


def _policy_logprobs(policy: Policy, pack: Pack, batch: Batch, config: TrainConfig) -> tuple[Tensor, Tensor | None]:
    if batch.advantages is None:
        return policy.logprobs(pack), None
    return policy.logprobs_and_entropies(pack, temperature=config.temperature)


@torch.no_grad()
def _frozen_logprobs(policy: Policy, pack: Pack, config: TrainConfig) -> Tensor:
    return policy.logprobs(pack, temperature=config.temperature)


def counted_mask(batch: Batch, pack: Pack) -> Tensor:
    """Return the pack's mask without the rows that have no part in the loss: [S, L]."""
    if batch.counted is None:
        return pack.mask_SL
    counted_S = torch.tensor([batch.counted[index] for index in pack.row_indices])
    return pack.mask_SL & counted_S.to(pack.mask_SL.device)[:, None]


def row_weights(batch: Batch, pack: Pack) -> list[float]:
    """Return for each of the pack's rows its share of the tokens that have one advantage: S numbers."""
    return [1.0 if batch.weights is None else batch.weights[index] for index in pack.row_indices]


def pack_loss(
    batch: Batch,
    pack: Pack,
    logprobs_N: Tensor,
    old_N: Tensor,
    *,
    num_rows: float,
    num_targets: int,
    config: TrainConfig,
    reference_N: Tensor | None = None,
    entropies_N: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return this pack's share of the loss of an update with so many rows and target tokens, and sums over its tokens.

    SRL averages as the loss of that name does; SFT over target tokens.
    """
    device = logprobs_N.device
    mask_SL = counted_mask(batch, pack).to(device)
    logprobs_SL = gather_rows(logprobs_N, pack)
    if batch.advantages is None:
        return likelihood_loss(logprobs_SL, mask_SL).sum() / num_targets, {}
    advantages_S = torch.tensor([batch.advantages[index] for index in pack.row_indices], device=device)
    low, high = config.clip_ranges
    clipped = clipped_loss(
        logprobs_SL,
        gather_rows(old_N, pack),
        advantages_S,
        mask_SL,
        clip_range=low,
        clip_range_high=high,
        by_sequence=config.loss == "gspo",
    )
    counts = {
        "clipped_low": float(clipped.num_clipped_low),
        "clipped_high": float(clipped.num_clipped_high),
        "log_ratio": float(clipped.log_ratio_sum),
        "targets": float(mask_SL.sum()),
    }
    loss_SL = clipped.loss_SL
    if config.truncation and batch.sampling_logprobs is not None:
        sampling_SL = rows_of(batch.sampling_logprobs, pack, device)
        old_SL = gather_rows(old_N, pack)
        weights_SL, ratio_SL = importance_weights(old_SL, sampling_SL, mask_SL, cap=config.truncation)
        loss_SL = loss_SL * weights_SL
        counts["importance_ratio"] = float(ratio_SL[mask_SL].sum())
        counts["importance_truncated"] = float((ratio_SL > config.truncation).sum())
    if reference_N is not None:
        kl_SL = divergence(logprobs_SL, gather_rows(reference_N, pack), mask_SL)
        loss_SL = loss_SL + config.kl_coef * kl_SL
        counts["kl_to_reference"] = float(kl_SL.detach().sum())
    if entropies_N is not None:
        counts["entropy"] = float(gather_rows(entropies_N, pack)[mask_SL].sum())
    if batch.sampling_logprobs is not None:
        # The tokens are the sampler's own, so that this estimates KL(sampler || policy).
        sampling_SL = rows_of(batch.sampling_logprobs, pack, device)
        counts["kl_to_sampler"] = float(divergence(sampling_SL, logprobs_SL.detach(), mask_SL).sum())
    loss = average_loss(
        loss_SL,
        mask_SL,
        loss=config.loss,
        num_rows=num_rows,
        num_targets=num_targets,
        max_completion_tokens=config.longest_sequence,
        weights_S=torch.tensor(row_weights(batch, pack), device=device),
    )
    return loss, counts


def rows_of(values: Sequence[Sequence[float]], pack: Pack, device: torch.device) -> Tensor:
    """Return one number per completion token of each of the pack's rows, padded with 0: [S, L]."""
    length = pack.mask_SL.shape[1]
    rows = [[*values[index], *[0.0] * (length - len(values[index]))] for index in pack.row_indices]
    return torch.tensor(rows, device=device)


def gather_rows(logprobs_N: Tensor, pack: Pack) -> Tensor:
    """Return the log-probabilities row by row, [S, L]; what lies outside the mask is arbitrary."""
    flat = logprobs_N.index_select(0, pack.targets_SL.to(logprobs_N.device).flatten())
    return flat.view(pack.targets_SL.shape)
