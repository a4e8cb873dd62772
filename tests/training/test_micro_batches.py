"""Micro-batches by a budget of tokens: what they hold, and that training by them is training by any others."""

import pytest
import torch
from accelerate import Accelerator
from support.completion_groups import GENERATIONS, batch, gradients
from support.grpo_trainer import trainer

from rl_rerank.stages.grpo.policies import TokensPolicy
from rl_rerank.training.grpo import algorithms
from rl_rerank.training.grpo.micro_batches import divide, rows
from rl_rerank.training.loop.micro_batches import WITHOUT_GRADIENTS, TokenBudget, Unit, spread

pytestmark = pytest.mark.slow


def unit(number, prompt, longest, completions, rows=1):
    return Unit(tuple(range(number * rows, (number + 1) * rows)), prompt + completions, rows, prompt, longest)


def numbers(batches, rows=1):
    return [[one.rows[0] // rows for one in units] for units in batches]


def test_a_packed_forward_computes_no_padding():
    units = [unit(0, 10, 3, 9, rows=4), unit(1, 7, 5, 14, rows=4)]
    # 10 tokens of a prompt and 9 of its completions, 7 and 14
    assert TokenBudget(100, is_packed=True).used(units) == 40
    # 8 rows of 10 + 5
    assert TokenBudget(100, is_packed=False).used(units) == 120


def test_packed_micro_batches_are_filled_first_fit():
    units = [unit(i, prompt, 9, 10) for i, prompt in enumerate((20, 5, 21, 6, 50))]
    # 60; 31 and 16 (47); 30 and 15
    assert numbers(TokenBudget(60, is_packed=True).filled(units)) == [[4], [2, 3], [0, 1]]
    # A completion that is larger than the budget still has a micro-batch.
    assert numbers(TokenBudget(10, is_packed=True).filled([units[4], units[1]])) == [[4], [1]]


def test_padded_micro_batches_hold_groups_of_like_length():
    units = [unit(i, prompt, 2, 8, rows=4) for i, prompt in enumerate((20, 5, 21, 6, 50))]
    # Of 4 completions: 5 and 6 are 8 rows of 6 + 2, and 20 and 21 8 rows of 21 + 2; 50 alone is 208.
    assert numbers(TokenBudget(190, is_packed=False).filled(units), rows=4) == [[1, 3], [0, 2], [4]]


def test_a_group_above_the_budget_is_divided():
    budget = TokenBudget(30, is_packed=True)
    # 10 + 9 + 8 = 27, and 6 more would be 33; 10 + 6 + 5 + 4 = 25; 40 alone is above the budget.
    found = divide(budget, range(20, 26), 10, [9, 8, 6, 5, 4, 40])
    assert found == [Unit((20, 21), 27, 2, 10, 9), Unit((22, 23, 24), 25, 3, 10, 6), Unit((25,), 50, 1, 10, 40)]
    padded = TokenBudget(40, is_packed=False)
    assert [len(one.rows) for one in divide(padded, range(5), 10, [9, 8, 6, 5, 4])] == [2, 2, 1]


def test_micro_batches_are_spread_over_as_many_as_the_other_processes_have():
    one = [unit(i, 5, 5, 5) for i in range(4)]
    assert numbers(spread([one[:3]], [], 2)) == [[0], [1, 2]]
    assert numbers(spread([one[:2]], one[2:], 2)) == [[0, 1, 2], [3]]  # idle units first: they cost next to nothing
    assert sorted(numbers(spread([one[:2]], one[2:3], 3))) == [[0], [1], [2]]
    assert numbers(spread([], one[:2], 1)) == [[1, 0]]
    # A group that is whole here and divided elsewhere.
    assert [[u.rows for u in units] for units in spread([[unit(0, 5, 5, 20, rows=4)]], [], 3)] == [
        [(0,)],
        [(2, 3)],
        [(1,)],
    ]


@pytest.mark.parametrize("tokens", [60, 12])
def test_each_row_is_taken_once(tokens):
    _, prompt_mask, _, completion_mask = batch()
    mask = torch.cat([prompt_mask, completion_mask], dim=1)
    given = (mask, completion_mask.size(1), GENERATIONS, TokenBudget(tokens, is_packed=True), Accelerator(cpu=True))
    found = rows(*given)
    assert len(found) > 1
    assert sorted(torch.cat(found).tolist()) == list(range(len(mask)))
    whole = [len(part) % GENERATIONS == 0 and part.view(-1, GENERATIONS).diff().eq(1).all() for part in found]
    assert all(whole) == (tokens == 60)
    # Groups that teach nothing do not count: the others fit into fewer.
    assert len(rows(*given, torch.tensor([False, True, False]))) < len(found)


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
    for tokens in (10_000, 32, 16):  # all groups in one, each in its own, and groups divided
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
    (loss, whole, once), *others = found
    # With the two of the comparison with trl's forward; a dead group is none.
    assert (once, others[0][2]) == (1 + 2, 2 + 2) and others[1][2] > others[0][2]
    assert whole.norm() > 1e-3
    for sum_of_losses, parts, _ in others:
        assert sum_of_losses == pytest.approx(loss, abs=1e-6)
        assert (whole - parts).norm() / whole.norm() < 1e-4


def test_a_pass_without_gradients_has_larger_micro_batches_and_the_same_values(
    tiny_model_dir, chatml_tokenizer, tmp_path
):
    prompt_ids, prompt_mask, completion_ids, completion_mask = batch()
    ids, mask = torch.cat([prompt_ids, completion_ids], 1), torch.cat([prompt_mask, completion_mask], 1)
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, micro_batch_tokens=16)
    asked = (run.model, ids, mask, completion_ids.size(1))
    with torch.no_grad():
        run._get_per_token_logps_and_entropies(*asked, batch_size=4)  # with the comparison of both ways
        forwards = []
        run.model.register_forward_pre_hook(
            lambda module, args, kwargs: forwards.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        found = run._get_per_token_logps_and_entropies(*asked, batch_size=4)[0]
        few = len(forwards)
        training = run._parts(mask, completion_ids.size(1), torch.ones(len(ids)))
        alone = run.log_probs(*asked, parts=training).log_probs
    # Sequences are cut behind their last token but one.
    assert max(forwards[:few]) <= WITHOUT_GRADIENTS * 16 and len(forwards) - few == len(training) > few
    assert torch.allclose(found, alone, atol=1e-5)


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
