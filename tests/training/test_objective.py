import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.training.config import Loss
from srl_swe.training.objective import average_loss, clipped_loss, divergence, importance_weights, likelihood_loss

SYMMETRIC = {"clip_range": 0.2, "clip_range_high": 0.2}


def test_clip_by_hand() -> None:
    # Ratios 1.5, 0.5 | 1.5, 0.5 with advantages 1 and -1 and a clip range of 0.2:
    # min(1.5, 1.2) = 1.2 and min(0.5, 0.8) = 0.5; min(-1.5, -1.2) = -1.5 and min(-0.5, -0.8) = -0.8.
    logprobs = torch.tensor([[math.log(1.5), math.log(0.5)]] * 2, requires_grad=True)
    mask = torch.ones(2, 2, dtype=torch.bool)
    result = clipped_loss(logprobs, torch.zeros(2, 2), torch.tensor([1.0, -1.0]), mask, **SYMMETRIC)
    assert result.loss_SL.flatten().tolist() == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    assert (result.num_clipped_high, result.num_clipped_low) == (1, 1)
    result.loss_SL.sum().backward()
    assert logprobs.grad is not None
    # The gradient of a free token is -advantage * ratio; a clipped one has none.
    assert logprobs.grad.flatten().tolist() == pytest.approx([0.0, -0.5, 1.5, 0.0])


def test_clip_higher_by_hand() -> None:
    # Ratio 1.25 with advantage 1: beyond 1.2, within 1.28. Ratio 1.5: held at 1.28.
    logprobs = torch.tensor([[math.log(1.25), math.log(1.5)]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    result = clipped_loss(logprobs, torch.zeros(1, 2), torch.tensor([1.0]), mask, clip_range=0.2, clip_range_high=0.28)
    assert result.loss_SL.flatten().tolist() == pytest.approx([-1.25, -1.28])
    assert (result.num_clipped_high, result.num_clipped_low) == (1, 0)


def test_ratio_of_a_sequence_by_hand() -> None:
    # Token ratios 4 and 1 have the geometric mean 2; held at 1.2 by advantage 1, free by advantage -1.
    logprobs = torch.tensor([[math.log(4.0), 0.0, math.nan]] * 2, requires_grad=True)
    mask = torch.tensor([[True, True, False]] * 2)
    result = clipped_loss(logprobs, torch.zeros(2, 3), torch.tensor([1.0, -1.0]), mask, by_sequence=True, **SYMMETRIC)
    assert result.loss_SL.tolist() == [pytest.approx([-1.2, -1.2, 0.0]), pytest.approx([2.0, 2.0, 0.0])]
    assert (result.num_clipped_high, result.num_clipped_low) == (2, 0)
    average(result.loss_SL, mask, "gspo").backward()
    assert logprobs.grad is not None
    # Of (0 + 2) / 2 = exp((x + y) / 2) / 2 the derivative by either token is 2 / 2 / 2.
    assert logprobs.grad.flatten().tolist() == pytest.approx([0, 0, 0, 0.5, 0.5, 0])


def average(loss_SL: torch.Tensor, mask_SL: torch.Tensor, loss: Loss, max_completion_tokens: int = 4) -> torch.Tensor:
    return average_loss(
        loss_SL,
        mask_SL,
        loss=loss,
        num_rows=len(mask_SL),
        num_targets=int(mask_SL.sum()),
        max_completion_tokens=max_completion_tokens,
    )


@pytest.mark.parametrize(("loss", "expected"), [("grpo", 3.5), ("gspo", 3.5), ("dapo", 3.0), ("dr_grpo", 9 / 8)])
def test_averages_by_hand(loss: Loss, expected: float) -> None:
    mask = torch.tensor([[True, True], [True, False]])
    assert float(average(torch.tensor([[1.0, 3.0], [5.0, 0.0]]), mask, loss)) == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["grpo", "gspo", "dapo", "dr_grpo"])
def test_a_row_that_does_not_count_adds_nothing(loss: Loss) -> None:
    mask = torch.tensor([[True, True], [False, False]])
    assert torch.isfinite(average(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), mask, loss))
    assert float(average(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool), loss)) == 0.0


def test_padding_may_hold_anything() -> None:
    # On policy: each token of row 0 weighs 1/3, the only token of row 1 weighs 1.
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, math.nan, 50.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    result = clipped_loss(logprobs, logprobs.detach(), torch.tensor([2.0, -4.0]), mask, **SYMMETRIC)
    assert result.num_clipped_low == result.num_clipped_high == 0
    loss = average(result.loss_SL, mask, "grpo")
    assert float(loss.detach()) == pytest.approx((-2.0 + 4.0) / 2)
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([-1 / 3] * 3)
    assert logprobs.grad[1].tolist() == pytest.approx([2.0, 0.0, 0.0])


def test_importance_weights_by_hand() -> None:
    # Policy 0.6, 0.1 and 0.3, sampler 0.2 each: ratios 3, held at 2; 0.5; 1.5. What is masked weighs 1.
    policy = torch.tensor([[0.6, 0.1, 0.3, 0.9]]).log().requires_grad_()
    sampler = torch.tensor([[0.2, 0.2, 0.2, torch.nan]]).log()
    weights, ratio = importance_weights(policy, sampler, torch.tensor([[True, True, True, False]]), cap=2)
    assert weights.flatten().tolist() == pytest.approx([2, 0.5, 1.5, 1])
    assert ratio.flatten().tolist() == pytest.approx([3, 0.5, 1.5, 1])
    assert not weights.requires_grad
    assert not ratio.requires_grad


def test_divergence_by_hand() -> None:
    policy = torch.tensor([[math.log(0.5), math.log(0.5), math.nan]])
    other = torch.tensor([[math.log(0.25), math.log(0.5), 0.0]])
    mask = torch.tensor([[True, True, False]])
    assert divergence(policy, other, mask).flatten().tolist() == pytest.approx([0.5 - 1 + math.log(2), 0.0, 0.0])


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=6), st.lists(st.floats(0.05, 1), min_size=6, max_size=6))
def test_divergence_is_unbiased_and_never_negative(first: list[float], second: list[float]) -> None:
    p = torch.tensor(first, dtype=torch.float64)
    q = torch.tensor(second[: len(first)], dtype=torch.float64)
    p, q = p / p.sum(), q / q.sum()
    estimates = divergence(p.log()[None], q.log()[None], torch.ones(1, len(p), dtype=torch.bool))[0]
    assert (estimates >= -1e-12).all()
    assert float((p * estimates).sum()) == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-9)


def test_likelihood_loss_by_hand() -> None:
    logprobs = torch.tensor([[-1.0, -2.0], [-4.0, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert likelihood_loss(logprobs, mask).tolist() == [3.0, 4.0]
