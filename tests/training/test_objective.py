import math

import pytest
import torch

from srl_swe.training.objective import clipped_loss, likelihood_loss


def test_clip_by_hand() -> None:
    # Ratios 1.5, 0.5 | 1.5, 0.5 with advantages 1 and -1 and a clip range of 0.2:
    # min(1.5, 1.2) = 1.2 and min(0.5, 0.8) = 0.5; min(-1.5, -1.2) = -1.5 and min(-0.5, -0.8) = -0.8.
    logprobs = torch.tensor([[math.log(1.5), math.log(0.5)]] * 2, requires_grad=True)
    result = clipped_loss(
        logprobs,
        torch.zeros(2, 2),
        torch.tensor([1.0, -1.0]),
        torch.ones(2, 2, dtype=torch.bool),
        clip_range=0.2,
    )
    assert result.loss_S.tolist() == pytest.approx([-(1.2 + 0.5) / 2, (1.5 + 0.8) / 2])
    assert result.num_clipped == 2
    result.loss_S.sum().backward()
    assert logprobs.grad is not None
    # The gradient of a free token is -advantage * ratio / length; a clipped one has none.
    assert logprobs.grad.flatten().tolist() == pytest.approx([0.0, -0.25, 0.75, 0.0])


def test_mean_is_per_sequence_and_masked() -> None:
    # On policy: each token of row 0 weighs 1/3, the only token of row 1 weighs 1. Padding may hold anything.
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, math.nan, 50.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    result = clipped_loss(logprobs, logprobs.detach(), torch.tensor([2.0, -4.0]), mask, clip_range=0.2)
    assert result.loss_S.tolist() == pytest.approx([-2.0, 4.0])
    assert result.num_clipped == 0
    result.loss_S.mean().backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([-1 / 3] * 3)
    assert logprobs.grad[1, 0] == pytest.approx(2.0)


def test_likelihood_loss_by_hand() -> None:
    logprobs = torch.tensor([[-1.0, -2.0], [-4.0, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert likelihood_loss(logprobs, mask).tolist() == [3.0, 4.0]
