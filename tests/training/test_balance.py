"""Dealing groups to processes by their cost; test_sharded.py shows that weights stay the same."""

import math
import random
from types import SimpleNamespace

import pytest
from torch import nn

from rl_rerank.training.grpo.balance import Cost, _steps, deal


def test_dealt_groups_are_a_permutation_with_as_many_on_every_process():
    rng = random.Random(0)
    for processes in (1, 2, 3, 8):
        for share in (1, 2, 5):
            costs = [rng.lognormvariate(0, 1) for _ in range(processes * share)]
            found = deal(costs, processes)
            assert sorted(group for groups in found for group in groups) == list(range(len(costs)))
            assert [len(groups) for groups in found] == [share] * processes
            assert all(groups == sorted(groups) for groups in found)


def test_the_largest_are_dealt_first_to_the_process_with_the_least():
    # 9 | 8 | 7, then 5 joins 7 (12), 4 joins 8 (12), 3 joins 9 (12)
    assert deal([9, 8, 7, 5, 4, 3], 3) == [[0, 5], [1, 4], [2, 3]]
    # Both 5s go to the process with fewer groups, though the other has less: 9 + 1 = 10 would take a third.
    assert deal([1, 9, 5, 5], 2) == [[0, 1], [2, 3]]


def test_equal_costs_are_dealt_by_number():
    assert deal([1.0] * 4, 2) == [[0, 2], [1, 3]]


def test_every_step_has_a_part_of_every_processs_groups():
    # Two processes with four groups each, two updates: the first halves of both are the first step.
    assert _steps(8, 2, 2) == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert sorted(group for step in _steps(24, 3, 4) for group in step) == list(range(24))


def test_a_group_costs_its_tokens_and_its_pairs():
    # Prompt: 3 x 4 / 2 = 6 pairs. Completions of 2 and 1: 2 x 3 + 3 = 9 and 3 + 1 = 4. Tokens: 6.
    assert Cost(0.5)(3, [2, 1]) == 6 + 0.5 * 19
    assert Cost(0.5)(3, [0, 0]) == 0


def test_a_pair_costs_what_the_models_shape_says():
    config = SimpleNamespace(num_hidden_layers=2, num_attention_heads=4, hidden_size=32)
    model = nn.Linear(10, 10, bias=False)
    model.config = SimpleNamespace(get_text_config=lambda: config)
    # 4 x 2 layers x 4 heads x 8, over 2 x 100 weights
    assert Cost.of(model).pair == 4 * 2 * 4 * 8 / 200


@pytest.mark.parametrize(("share", "most"), [(2, 1.15), (8, 1.03)])
def test_log_normal_lengths_leave_processes_nearly_equal(share, most):
    """Eight processes; completions of about 1,000 tokens, of which the prompt decides as much as chance does."""
    rng, cost = random.Random(0), Cost(4e-5)
    before, after = [], []
    for _ in range(200):
        costs = []
        for _ in range(8 * share):
            center = math.log(1000) + rng.gauss(0, 0.4)
            costs.append(
                cost(rng.randint(1800, 4200), [min(3072, int(rng.lognormvariate(center, 0.5))) for _ in range(8)])
            )
        mean = sum(costs) / 8
        before.append(max(sum(costs[p * share : (p + 1) * share]) for p in range(8)) / mean)
        after.append(max(sum(costs[g] for g in groups) for groups in deal(costs, 8)) / mean)
    assert sum(after) / 200 <= most
    assert sum(before) / 200 > sum(after) / 200 + 0.1
