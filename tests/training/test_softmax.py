import math

import pytest
import torch

from rl_rerank.training.softmax import softmax_loss


def test_softmax_loss_by_hand():
    # list 1: scores 0, 0, grades 1, 0: -log(1/2) = .69315
    # list 2: scores log 2, 0, 0, grades 2, 1, 0: softmax 1/2, 1/4, 1/4; -(2/3 log 1/2 + 1/3 log 1/4) = .92420
    scores = torch.tensor([0.0, 0.0, math.log(2), 0.0, 0.0])
    grades = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0])
    assert softmax_loss(scores, grades, [2, 3]).item() == pytest.approx((0.69315 + 0.92420) / 2, abs=1e-5)


def test_the_gradient_raises_the_relevant_document():
    scores = torch.zeros(3, requires_grad=True)
    softmax_loss(scores, torch.tensor([0.0, 1.0, 0.0]), [3]).backward()
    # softmax - target = 1/3, 1/3 - 1, 1/3
    assert scores.grad.tolist() == pytest.approx([1 / 3, -2 / 3, 1 / 3])
