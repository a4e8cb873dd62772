"""Micro-batches by a budget of tokens: what they hold, and that training by them is training by any others."""

import pytest
import torch
from accelerate import Accelerator
from support.completion_groups import GENERATIONS, batch, gradients
from support.grpo_trainer import trainer

from rl_rerank.stages.grpo.policies import TokensPolicy
from rl_rerank.training.grpo import algorithms
from rl_rerank.training.grpo.micro_batches import Size, TokenBudget, rows, spread

pytestmark = pytest.mark.slow


def test_a_packed_forward_computes_no_padding():
    sizes = [Size(10, 3, 9), Size(7, 5, 14)]
    # 10 tokens of a prompt and 9 of its completions, 7 and 14
    assert TokenBudget(100, 4, is_packed=True).used(sizes) == 40
    # 8 rows of 10 + 5
    assert TokenBudget(100, 4, is_packed=False).used(sizes) == 120


def test_packed_micro_batches_are_filled_first_fit():
    sizes = [Size(20, 9, 10), Size(5, 9, 10), Size(21, 9, 10), Size(6, 9, 10), Size(50, 9, 10)]
    budget = TokenBudget(60, 4, is_packed=True)
    # 60; 31 and 16 (47); 30 and 15
    assert budget.filled(sizes, range(5)) == [[4], [2, 3], [0, 1]]
    # A group that is larger than the budget still has a micro-batch.
    assert TokenBudget(10, 4, is_packed=True).filled(sizes, [4, 1]) == [[4], [1]]


def test_padded_micro_batches_hold_groups_of_like_length():
    sizes = [Size(20, 2, 8), Size(5, 2, 8), Size(21, 2, 8), Size(6, 2, 8), Size(50, 2, 8)]
    # Of 4 completions: 5 and 6 are 8 rows of 6 + 2, and 20 and 21 8 rows of 21 + 2; 50 alone is 208.
    assert TokenBudget(190, 4, is_packed=False).filled(sizes, range(5)) == [[1, 3], [0, 2], [4]]


def test_micro_batches_are_spread_over_as_many_as_the_other_processes_have():
    assert spread([[0, 1, 2]], [], 2) == [[0], [1, 2]]
    assert spread([[0, 1]], [2, 3], 2) == [[0, 1, 2], [3]]  # idle groups first: they cost next to nothing
    assert sorted(map(tuple, spread([[0, 1]], [2], 3))) == [(0,), (1,), (2,)]
    assert spread([], [0, 1], 1) == [[1, 0]]


def test_rows_are_whole_groups_and_each_is_taken_once():
    _, prompt_mask, _, completion_mask = batch()
    mask = torch.cat([prompt_mask, completion_mask], dim=1)
    budget = TokenBudget(60, GENERATIONS, is_packed=True)
    found = rows(mask, completion_mask.size(1), budget, Accelerator(cpu=True))
    assert len(found) > 1
    assert sorted(torch.cat(found).tolist()) == list(range(len(mask)))
    assert all(part.view(-1, GENERATIONS).diff().eq(1).all() for part in found)
    # Groups that teach nothing do not count: the others fit into one.
    alive = torch.tensor([False, True, False])
    assert len(rows(mask, completion_mask.size(1), budget, Accelerator(cpu=True), alive)) == 1


@pytest.mark.parametrize("name", algorithms.ARGUMENTS)
def test_the_gradient_of_a_step_is_that_of_one_micro_batch(tiny_model_dir, chatml_tokenizer, tmp_path, name):
    arguments = algorithms.arguments(TokensPolicy(algorithm=name), None)
    prompt_ids, prompt_mask, completion_ids, completion_mask = batch()
    generator = torch.Generator().manual_seed(4)
    advantages = torch.randn(len(prompt_ids), generator=generator)
    advantages[:GENERATIONS] = 0
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": advantages,
        "num_items_in_batch": completion_mask.sum(),
    }
    found = []
    for tokens in (10_000, 20):  # all groups in one, and each in its own
        run = trainer(
            tiny_model_dir,
            chatml_tokenizer,
            tmp_path,
            micro_batch_tokens=tokens,
            per_device_train_batch_size=len(prompt_ids),
            gradient_accumulation_steps=1,
            steps_per_generation=1,
            max_completion_length=7,
            **arguments,
        )
        run.current_gradient_accumulation_steps = 1
        forwards = []
        run.model.register_forward_pre_hook(lambda *_, seen=forwards: seen.append(1))
        loss = run.training_step(run.model, inputs)
        found.append((loss.item(), gradients(run.model), len(forwards)))
    (loss, whole, once), (sum_of_losses, parts, often) = found
    assert (once, often) == (1 + 2, 2 + 2)  # with the two of the comparison with trl's forward; a dead group is none
    assert sum_of_losses == pytest.approx(loss, abs=1e-6)
    assert whole.norm() > 1e-3
    assert (whole - parts).norm() / whole.norm() < 1e-4


def test_training_by_a_budget_ends_in_the_same_weights(tiny_model_dir, chatml_tokenizer, tmp_path):
    weights, norms = [], []
    for settings in (
        {},
        {
            "micro_batch_tokens": 500,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "steps_per_generation": 1,
        },
    ):
        torch.manual_seed(0)
        run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, beta=0.04, num_iterations=2, max_steps=4, **settings)
        run.train()
        weights.append({n: p.detach().clone() for n, p in run.model.named_parameters()})
        norms.append([row["grad_norm"] for row in run.state.log_history if "grad_norm" in row])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-4), name


def test_terms_that_are_means_over_a_micro_batch_are_refused(tiny_model_dir, chatml_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="an entropy bonus or an auxiliary loss is a mean over one"):
        trainer(tiny_model_dir, chatml_tokenizer, tmp_path, micro_batch_tokens=100, entropy_coef=0.01)
