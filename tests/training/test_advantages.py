import pytest
import torch

from rl_rerank.training.grpo.advantages import leave_one_out, variance_within, without_rounding


def test_variance_within_groups():
    # Means 1 and 3, each group 0, 2 and 2, 4: variance 1 within, 1 between the groups, 2 in all.
    assert variance_within(torch.tensor([0.0, 2.0, 2.0, 4.0]), 2) == pytest.approx(0.5)
    assert variance_within(torch.tensor([1.0, 1.0, 3.0, 3.0]), 2) == 0.0
    assert variance_within(torch.tensor([1.0, 3.0, 3.0, 1.0]), 2) == 1.0
    assert variance_within(torch.full((4,), 0.3), 2) == 0.0


def test_the_mean_of_the_others_from_the_mean_of_all():
    # Rewards 0, 0, 3: mean 1; over the others' means 1.5, 1.5, 0 they are -1.5, -1.5, 3.
    assert leave_one_out(torch.tensor([-1.0, -1.0, 2.0]), 3).tolist() == [-1.5, -1.5, 3.0]


def test_only_groups_of_one_worth_are_set_to_zero():
    rewards, found = torch.tensor([0.3, 0.3, 0.1, 0.2]), torch.tensor([1e-4, -1e-4, -1.0, 1.0])
    assert without_rounding(found, rewards, 2).tolist() == [0.0, -0.0, -1.0, 1.0]
