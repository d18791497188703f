"""Our loss and gradient against TRL's GRPO on the same rollouts."""

import random
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


@pytest.mark.parametrize("clip_range", [0.2, 1e-3])
def test_loss_and_gradient_equal_trl(tiny_model: Path, tmp_path: Path, clip_range: float) -> None:
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
            loss_type="grpo",
            beta=0.0,
            epsilon=clip_range,
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
    theirs.train()
    trainer.current_gradient_accumulation_steps = 1
    moved = Policy.from_pretrained(tiny_model)
    weights = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    with torch.no_grad():
        for index, parameter in enumerate(moved.model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.02)
        theirs.load_state_dict(moved.model.state_dict())
        inputs["old_per_token_logps"], _, _ = trainer._get_per_token_logps_and_entropies(
            theirs,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            length,
        )
        theirs.load_state_dict(weights)
    loss = trainer._compute_loss(theirs, inputs)
    loss.backward()

    batch = Batch(rows=rows, advantages=advantages, rows_per_group=4, drawn=3, metrics={})
    config = TrainConfig(model="m", output=tmp_path, clip_range=clip_range, dtype="float32")
    total, clipped = 0.0, 0.0
    packs = pack_rows(rows, range(len(rows)), tokens_per_pack=60)
    assert len(packs) > 1
    for pack in packs:
        our_loss, counts = pack_loss(
            batch,
            pack,
            ours.logprobs(pack),
            moved.logprobs(pack).detach(),
            num_rows=len(rows),
            num_targets=0,
            config=config,
        )
        our_loss.backward()
        total += float(our_loss.detach())
        clipped += counts["clipped"]
    assert total == pytest.approx(float(loss.detach()), rel=1e-5)
    assert 0 < clipped < sum(len(row.completion_ids) for row in rows)
    for (name, mine), parameter in zip(ours.model.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert parameter.grad is not None
        difference = float((mine.grad - parameter.grad).norm() / parameter.grad.norm())
        assert difference < 1e-5, f"{name}: {difference}"


def _dataset() -> Any:
    import datasets

    return datasets.Dataset.from_list([{"prompt": "a"}] * 8)
