"""Scores, and all orders of a few documents."""

import itertools

import torch

from rl_rerank.training.exact.plackett_luce import sample


def scores_of(n, seed=0):
    return torch.randn(1, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_orders(n):
    """[1, n!, n]."""
    return torch.tensor(list(itertools.permutations(range(n)))).unsqueeze(0)


def everyone(scores):
    return torch.ones_like(scores, dtype=torch.bool)


def draw(scores, num_orders, seed=0, mask=None):
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(scores))]
    return sample(scores, everyone(scores) if mask is None else mask, num_orders, generators)
