"""Gradients of every algorithm's loss against its formula, written out, on one batch of hand-made numbers."""

from typing import get_args, get_type_hints

import pytest
import torch
from support.completion_groups import GENERATIONS, GROUPS, batch, gradients, plain_log_probs
from support.grpo_trainer import trainer

from rl_rerank.config import build
from rl_rerank.stages.grpo.policies import TokensPolicy
from rl_rerank.training.grpo import algorithms

pytestmark = pytest.mark.slow

ROWS, LONGEST = GROUPS * GENERATIONS, 7


def ratios(log_probs, old, mask, level="token"):
    log_ratio = log_probs - old
    if level == "sequence":
        log_ratio = ((log_ratio * mask).sum(1) / mask.sum(1))[:, None]
    return log_ratio.exp()


def clipped(r, advantages, low, high):
    return -torch.min(r * advantages, r.clamp(1 - low, 1 + high) * advantages)


def mean_over_completions(loss, mask):
    return ((loss * mask).sum(1) / mask.sum(1)).mean()


FORMULAS = {
    "grpo": lambda p, old, a, m: mean_over_completions(clipped(ratios(p, old, m), a, 0.2, 0.2), m),
    "rloo": lambda p, old, a, m: mean_over_completions(clipped(ratios(p, old, m), a, 0.2, 0.2), m),
    "dr_grpo": lambda p, old, a, m: (clipped(ratios(p, old, m), a, 0.2, 0.2) * m).sum() / (len(m) * LONGEST),
    "dapo": lambda p, old, a, m: (clipped(ratios(p, old, m), a, 0.2, 0.28) * m).sum() / m.sum(),
    "gdpo": lambda p, old, a, m: (clipped(ratios(p, old, m), a, 0.2, 0.2) * m).sum() / m.sum(),
    "gspo": lambda p, old, a, m: mean_over_completions(
        clipped(ratios(p, old, m, "sequence"), a, 3e-4, 4e-4).expand_as(m), m
    ),
    "cispo": lambda p, old, a, m: -(ratios(p, old, m).clamp(max=5).detach() * a * p * m).sum() / m.sum(),
}


def test_every_name_has_its_arguments():
    assert tuple(algorithms.ARGUMENTS) == get_args(get_type_hints(TokensPolicy)["algorithm"])


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("name", algorithms.ARGUMENTS)
def test_the_gradient_is_that_of_the_formula(tiny_model_dir, chatml_tokenizer, tmp_path, name, shared):
    arguments = algorithms.arguments(TokensPolicy(algorithm=name), None)
    run = trainer(
        tiny_model_dir,
        chatml_tokenizer,
        tmp_path,
        shared_prefix=shared,
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        max_completion_length=LONGEST,
        **arguments,
    )
    run.current_gradient_accumulation_steps = 1
    model = run.model.train()
    prompt_ids, prompt_mask, completion_ids, completion_mask = batch()
    generator = torch.Generator().manual_seed(4)
    advantages = torch.randn(ROWS, generator=generator)
    advantages[:GENERATIONS] = 0  # A group that teaches nothing.
    log_probs = plain_log_probs(model, prompt_ids, prompt_mask, completion_ids, completion_mask, 1.0)
    # Far enough for every bound to be reached; that of cispo is 5 = exp(1.6).
    old = (log_probs.detach() + 0.4 * torch.randn(ROWS, LONGEST, generator=generator)) * completion_mask
    old[-1, 0] -= 3.0
    expected = FORMULAS[name](log_probs, old, advantages[:, None], completion_mask)
    expected.backward()
    by_formula = gradients(model)

    loss = run._compute_loss(
        model,
        {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": completion_ids,
            "completion_mask": completion_mask,
            "advantages": advantages,
            "old_per_token_logps": old,
            "num_items_in_batch": completion_mask.sum(),
        },
    )
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    ours = gradients(model)
    assert by_formula.norm() > 1e-3
    assert (ours - by_formula).norm() / by_formula.norm() < 1e-4


def test_the_mean_of_the_others_is_the_baseline_of_rloo(tiny_model_dir, chatml_tokenizer, tmp_path):
    run = trainer(
        tiny_model_dir,
        chatml_tokenizer,
        tmp_path,
        leave_one_out=True,
        max_steps=1,
        **algorithms.arguments(TokensPolicy(algorithm="rloo"), None),
    )
    run.train()
    rewards = torch.tensor([row["reward"] for row in run.completions]).view(-1, GENERATIONS)
    others = (rewards.sum(1, keepdim=True) - rewards) / (GENERATIONS - 1)
    assert [row["advantage"] for row in run.completions] == pytest.approx(
        (rewards - others).flatten().tolist(), abs=1e-6
    )
    assert rewards.std() > 0


def test_a_stage_may_set_what_its_algorithm_would():
    policy = TokensPolicy(algorithm="dapo", epsilon=0.1)
    assert algorithms.arguments(policy, "batch") == {
        "loss_type": "dapo",
        "scale_rewards": "batch",
        "epsilon": 0.1,
        "epsilon_high": 0.28,
    }
    with pytest.raises(ValueError, match=r"algorithm must be one of grpo, dr_grpo, .*; got 'ppo'"):
        build(TokensPolicy, {"algorithm": "ppo"})
