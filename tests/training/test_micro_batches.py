"""Micro-batches by a budget of tokens: what they hold, and that training by them is training by any others."""

import random
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from support.completion_groups import GENERATIONS, batch, gradients, tiny
from support.grpo_trainer import trainer

from rl_rerank.stages.grpo.policies import TokensPolicy
from rl_rerank.training.grpo import algorithms
from rl_rerank.training.grpo.distillation import joined
from rl_rerank.training.grpo.micro_batches import budget, divide, pieces, rows
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


def test_pieces_share_what_a_kept_prompt_leaves_of_the_budget():
    budget = TokenBudget(40, is_packed=True, prompt_cost=1.5)
    # 40 - 1.5 * 10 = 25 are left: 1 + 9 + 8 + 6 = 24; 1 + 5 + 4 = 10.
    continuing = [Unit((20, 21, 22), 24, 3, 1, 9), Unit((23, 24), 10, 2, 1, 5)]
    assert pieces(budget, range(20, 25), 11, [9, 8, 6, 5, 4]) == ([], continuing)
    # 1 + 27 does not fit, and is behind a prompt of its own: 10 + 34 + 38 tokens, and by `divide` 39 + 15 + 38.
    alone = Unit((25,), 38, 1, 11, 27)
    assert pieces(budget, range(20, 26), 11, [9, 8, 6, 5, 4, 27]) == ([alone], continuing)
    # With 25 instead they are 80, and by `divide` 39 + 40.
    assert not pieces(budget, range(20, 26), 11, [9, 8, 6, 5, 4, 25])[1]
    again = TokenBudget(40, is_packed=True)
    assert pieces(again, range(5), 11, [9, 8, 6, 5, 4]) == (divide(again, range(5), 11, [9, 8, 6, 5, 4]), [])
    # 2 + 10 + 10 twice, 44; 1 + 1 + 10 + 10 twice, 22 of the 23 that are left, and 1 more: 43
    small = TokenBudget(25, is_packed=True, prompt_cost=1.5)
    assert [len(unit.rows) for unit in pieces(small, range(4), 2, [10] * 4)[1]] == [2, 2]
    # A prompt of one token has none to keep.
    assert not pieces(small, range(4), 1, [12] * 4)[1]


@pytest.mark.parametrize("seed", range(200))
def test_pieces_fit_beside_their_prompt_and_are_fewer_tokens(seed):
    rng = random.Random(seed)
    prompt, lengths = rng.randint(1, 60), [rng.randint(0, 40) for _ in range(rng.randint(1, 8))]
    budget = TokenBudget(rng.randint(10, 200), is_packed=True, prompt_cost=rng.uniform(1, 2))
    again = divide(budget, range(len(lengths)), prompt, lengths)
    units, continuing = pieces(budget, range(len(lengths)), prompt, lengths)
    assert sorted(row for unit in (*units, *continuing) for row in unit.rows) == list(range(len(lengths)))
    if not continuing:
        assert units == again
        return
    left = budget.tokens - budget.prompt_cost * (prompt - 1)
    assert len(continuing) > 1 and max(unit.tokens for unit in continuing) <= left
    assert all(unit.tokens <= budget.tokens or len(unit.rows) == 1 for unit in units)
    computed = prompt - 1 + sum(unit.tokens for unit in (*units, *continuing))
    assert computed < sum(unit.tokens for unit in again)


@pytest.mark.parametrize(
    ("strategy", "refusal", "keeps"),
    [("NO", None, True), ("MULTI_GPU", None, True), ("FSDP", None, False), ("NO", "why", False)],
)
def test_prompts_are_kept_where_rows_are_packed_and_every_process_has_whole_weights(strategy, refusal, keeps):
    accelerator = SimpleNamespace(distributed_type=DistributedType[strategy], unwrap_model=lambda model: model)
    settings = {"log_probs": SimpleNamespace(refusal=refusal), "teacher": None, "micro_batch_tokens": 100}
    run = SimpleNamespace(accelerator=accelerator, model=tiny("llama"), **settings)
    # 4 x 2 heads x 8 over 12 x 32 beside 1
    assert budget(run, with_gradients=True).prompt_cost == (pytest.approx(1 + 1 / 6) if keeps else None)


def test_long_groups_compute_about_as_many_tokens_as_their_prefix_tree():
    generator = torch.Generator().manual_seed(0)
    # 3 prompts of 3,000 tokens with 8 completions of 2,000 on average each
    lengths = torch.randint(500, 3_500, (24, 1), generator=generator)
    mask = torch.cat([torch.ones(24, 3_000), torch.arange(3_500) < lengths], dim=1).long()
    counts = {}
    for cost in (None, 1.3):
        parts = rows(mask, 3_500, 8, TokenBudget(8_192, True, cost), Accelerator(cpu=True))
        assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(24))
        kept = {id(part.prefix): part.prefix for part in parts if part.prefix is not None}
        assert len(kept) == (0 if cost is None else 3)
        behind = {part.prefix for part in parts}
        assert sum(prefix.pieces for prefix in kept.values()) == (0 if cost is None else len(parts))
        read = sum(int(lengths[part.rows].sum()) + (3_000 if part.prefix is None else 1) for part in parts)
        counts[cost] = read + 2_999 * len(kept)
        assert len(behind) == max(len(kept), 1)
    tree = 3 * 3_000 + int(lengths.sum())
    assert tree < counts[1.3] < 1.001 * tree
    assert counts[None] > 1.4 * tree


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
    assert sorted(torch.cat([part.rows for part in found]).tolist()) == list(range(len(mask)))
    numbers = [part.rows for part in found]
    whole = [len(each) % GENERATIONS == 0 and each.view(-1, GENERATIONS).diff().eq(1).all() for each in numbers]
    assert all(whole) == (tokens == 60)
    # Rows that teach nothing do not count: the others fit into fewer.
    assert len(rows(*given, torch.arange(len(mask)) % GENERATIONS == 0)) < len(found)


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


def long_group(is_idle=()):
    """A group of 6 completions of 6 tokens behind 12, beside one of 6 completions of 1 token behind 4."""
    generator = torch.Generator().manual_seed(5)
    prompt_mask = (torch.arange(12) >= torch.tensor([[0], [8]])).long().repeat_interleave(6, 0)
    completion_mask = (torch.arange(6) < torch.tensor([[6], [1]])).long().repeat_interleave(6, 0)
    prompt_ids = torch.randint(1, 97, (2, 12), generator=generator).repeat_interleave(6, 0)
    advantages = torch.randn(12, generator=generator)
    advantages[list(is_idle)] = 0
    return {
        "prompt_ids": prompt_ids * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(1, 97, (12, 6), generator=generator) * completion_mask,
        "completion_mask": completion_mask,
        "advantages": advantages,
        "num_items_in_batch": completion_mask.sum(),
    }


@pytest.mark.parametrize("is_idle", [(), (1,), (0, 1, 7)])
@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
@pytest.mark.parametrize("lora", [False, True])
def test_a_step_in_pieces_that_continue_a_prompt_has_the_gradient_of_one_row(
    tiny_model_dir, chatml_tokenizer, tmp_path, lora, checkpointing, is_idle
):
    found = []
    for tokens in (10_000, 30):
        run = trainer(
            tiny_model_dir,
            chatml_tokenizer,
            tmp_path,
            lora=lora,
            micro_batch_tokens=tokens,
            num_generations=6,
            per_device_train_batch_size=12,
            gradient_accumulation_steps=1,
            steps_per_generation=1,
        )
        run.current_gradient_accumulation_steps = 1
        if checkpointing is not None:
            run.model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
            run.model.enable_input_require_grads()
        torch.manual_seed(1)
        for name, weight in run.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        batch = long_group(is_idle)
        run.log_probs._is_verified = True
        read = []
        run.model.register_forward_pre_hook(
            lambda module, args, kwargs, read=read: read.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        loss = run.training_step(run.model, batch)
        gradient = torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])
        found.append((loss.item(), gradient, read))
    (loss, whole, once), (sum_of_losses, parts, read) = found
    assert whole.norm() > 1e-3 and len(once) == 1
    assert sum_of_losses == pytest.approx(loss, abs=1e-6)
    assert (whole - parts).norm() / whole.norm() < 1e-4
    # The prompt's first 11 tokens are read once, if its keys and values can be kept.
    assert (11 in read) == (checkpointing != "reentrant")
    assert len(read) > 1


def test_a_pass_without_gradients_computes_long_prompts_once(tiny_model_dir, chatml_tokenizer, tmp_path):
    batch = long_group()
    ids, mask, length = joined(batch)
    settings = {"num_generations": 6, "per_device_train_batch_size": 12, "steps_per_generation": 1}
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, micro_batch_tokens=20, **settings)
    run.log_probs._is_verified = True
    asked, read = (run.model, ids, mask, length), []
    run.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    with torch.no_grad():
        found = run._get_per_token_logps_and_entropies(*asked, batch_size=6)[0]
        once = list(read)
        alone = run.log_probs(*asked).log_probs
    assert 11 in once and len(once) > 3
    assert torch.allclose(found, alone, atol=1e-5)


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
    prompts = len({id(part.prefix) for part in training if part.prefix is not None})  # each has a forward of its own
    # Sequences are cut behind their last token but one.
    assert max(forwards[:few]) <= WITHOUT_GRADIENTS * 16 and len(forwards) - few == len(training) + prompts > few
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
