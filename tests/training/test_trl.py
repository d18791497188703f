"""Our loss and gradient against TRL's GRPO on the same rollouts."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from srl_swe.training.batches import Batch
from srl_swe.training.config import TrainConfig
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row, pack_rows
from srl_swe.training.update import pack_loss

trl = pytest.importorskip("trl", reason="TRL is in the dev extra")


CASES = {
    "grpo": ({"clip_range": 0.2}, {"epsilon": 0.2}),
    "grpo, tight": ({"clip_range": 1e-3}, {"epsilon": 1e-3}),
    "grpo, kl": ({"clip_range": 0.2, "kl_coef": 0.3}, {"epsilon": 0.2, "beta": 0.3}),
    "dapo": ({"loss": "dapo"}, {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}),
    "dapo, kl": (
        {"loss": "dapo", "kl_coef": 0.1},
        {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.1},
    ),
    "dr_grpo": ({"loss": "dr_grpo", "clip_range": 0.1}, {"loss_type": "dr_grpo", "epsilon": 0.1}),
    "gspo": ({"loss": "gspo"}, {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}),
    "gspo, kl": (
        {"loss": "gspo", "clip_range": 0.2, "kl_coef": 0.2},
        {"importance_sampling_level": "sequence", "epsilon": 0.2, "beta": 0.2},
    ),
    "truncated": ({"importance_cap": 1.2, "kl_coef": 0.3}, {"epsilon": 0.2, "beta": 0.3}),
    "truncated, dapo": ({"loss": "dapo", "importance_cap": 1.2}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "truncated, gspo": (
        {"loss": "gspo", "importance_cap": 1.2},
        {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    ),
    "masked": ({"mask_overlong": True}, {"epsilon": 0.2}),
    "masked, dapo": ({"loss": "dapo", "mask_overlong": True}, {"loss_type": "dapo", "epsilon_high": 0.28}),
}
"""Our options beside TRL's for the same loss."""


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_trl(tiny_model: Path, tmp_path: Path, case: str) -> None:
    our_options, their_options = CASES[case]
    AcceleratorState._reset_state(reset_partial_state=True)
    random.seed(0)
    prompts = [tuple(random.choices(range(20), k=k)) for k in (5, 5, 9)]
    rows = tuple(
        Row(prompt_ids=prompt, completion_ids=tuple(random.choices(range(20), k=random.randint(1, 8))))
        for prompt in prompts
        for _ in range(4)
    )
    advantages = tuple(random.gauss(0, 1) for _ in rows)

    # Old log-probabilities off the policy, so that some tokens are clipped: those of slightly different weights.
    ours = Policy.from_pretrained(tiny_model)
    theirs = Policy.from_pretrained(tiny_model).model
    trainer = trl.GRPOTrainer(
        model=theirs,
        reward_funcs=lambda **_: [0.0],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            # Ours is the plain k3 term of GRPO, not multiplied by the ratio.
            use_bias_correction_kl=False,
            **({"loss_type": "grpo", "beta": 0.0} | their_options),
            num_generations=4,
            per_device_train_batch_size=len(rows),
            max_completion_length=8,
            use_cpu=True,
            bf16=False,
            report_to="none",
        ),
        train_dataset=_dataset(),
        processing_class=ours.tokenizer,
    )
    width = max(len(row.prompt_ids) for row in rows)
    length = max(len(row.completion_ids) for row in rows)
    inputs = {
        "prompt_ids": torch.tensor([[0] * (width - len(r.prompt_ids)) + list(r.prompt_ids) for r in rows]),
        "prompt_mask": torch.tensor([[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in rows]),
        "completion_ids": torch.tensor([list(r.completion_ids) + [0] * (length - len(r.completion_ids)) for r in rows]),
        "completion_mask": torch.tensor(
            [[1] * len(r.completion_ids) + [0] * (length - len(r.completion_ids)) for r in rows]
        ),
        "advantages": torch.tensor(advantages),
    }
    counted = tuple(not (our_options.get("mask_overlong") and i % 3 == 0) for i in range(len(rows)))
    inputs["completion_mask"] *= torch.tensor(counted)[:, None]
    inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
    theirs.train()
    trainer.current_gradient_accumulation_steps = 1
    moved = Policy.from_pretrained(tiny_model)
    weights = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    with torch.no_grad():
        for index, parameter in enumerate(moved.model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.02)
        theirs.load_state_dict(moved.model.state_dict())
        inputs["old_per_token_logps"], _, _ = inputs["ref_per_token_logps"], _, _ = (
            trainer._get_per_token_logps_and_entropies(
                theirs,
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
                length,
            )
        )
        theirs.load_state_dict(weights)
    # What another engine would have said: off by so much that some ratios are truncated, and some are not.
    noise = 0.3 * torch.randn(len(rows), length, generator=torch.Generator().manual_seed(9))
    sampling = inputs["old_per_token_logps"] + noise
    cap = our_options.get("importance_cap")
    if cap:
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
        inputs["importance_sampling_ratio"] = (-noise).exp().clamp(max=cap)
    loss = trainer._compute_loss(theirs, inputs)
    loss.backward()

    batch = Batch(
        rows=rows,
        advantages=advantages,
        rows_per_group=4,
        drawn=3,
        metrics={},
        counted=counted if not all(counted) else None,
        sampling_logprobs=tuple(
            tuple(logprobs[: len(row.completion_ids)]) for row, logprobs in zip(rows, sampling.tolist(), strict=True)
        )
        if cap
        else None,
    )
    options = {"max_prompt_tokens": 50, "max_completion_tokens": 8, "dtype": "float32"} | our_options
    config = TrainConfig(model="m", output=tmp_path, **options)
    total, sums = 0.0, Counter[str]()
    packs = pack_rows(rows, range(len(rows)), tokens_per_pack=60)
    assert len(packs) > 1
    for pack in packs:
        logprobs_N, entropies_N = ours.logprobs_and_entropies(pack)
        moved_N = moved.logprobs(pack).detach()
        our_loss, counts = pack_loss(
            batch,
            pack,
            logprobs_N,
            moved_N,
            num_rows=len(rows),
            num_targets=int(inputs["num_items_in_batch"]),
            config=config,
            reference_N=moved_N if config.kl_coef else None,
            entropies_N=entropies_N,
        )
        our_loss.backward()
        total += float(our_loss.detach())
        sums.update(counts)
    assert total == pytest.approx(float(loss.detach()), rel=1e-5)
    found = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    num_tokens = sums["targets"]
    assert sums["entropy"] / num_tokens == pytest.approx(found["entropy"], rel=1e-5)
    if cap:
        ratios = [(-noise[i, : len(row.completion_ids)]).exp() for i, row in enumerate(rows)]
        assert sums["importance_ratio"] == pytest.approx(sum(float(r.sum()) for r in ratios), rel=1e-4)
        truncated = sum(int((r > cap).sum()) for r in ratios)
        assert 0 < truncated == sums["importance_truncated"] < num_tokens
    if config.kl_coef:
        assert sums["kl_to_reference"] / num_tokens == pytest.approx(found["kl"], rel=1e-4)
    if config.loss == "gspo":  # TRL counts sequences there, we the tokens in them.
        assert (sums["clipped_low"] + sums["clipped_high"] > 0) == (found["clip_ratio/region_mean"] > 0)
    else:
        assert sums["clipped_low"] / num_tokens == pytest.approx(found["clip_ratio/low_mean"])
        assert sums["clipped_high"] / num_tokens == pytest.approx(found["clip_ratio/high_mean"])
        assert 0 < sums["clipped_low"] + sums["clipped_high"] < num_tokens
    for (name, mine), parameter in zip(ours.model.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert parameter.grad is not None
        difference = float((mine.grad - parameter.grad).norm() / parameter.grad.norm())
        assert difference < 1e-5, f"{name}: {difference}"


def _dataset() -> Any:
    import datasets

    return datasets.Dataset.from_list([{"prompt": "a"}] * 8)
