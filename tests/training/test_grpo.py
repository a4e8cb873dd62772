"""The GRPO subclass on a tiny random model: contract with trl, rewards, KL, equality with trl's own forward."""

import hashlib
import inspect
from dataclasses import replace

import pytest
import torch
from support.grpo_trainer import Uneven, trainer
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer

from rl_rerank.packed import attention
from rl_rerank.reward.base import Term
from rl_rerank.training.grpo.trainer import OVERRIDES
from rl_rerank.training.loop.task import Task
from rl_rerank_rewards.format import Format

pytestmark = pytest.mark.slow

# sha256 of the methods' sources in trl 1.16.0. A difference means: read trl's change, adapt the override, then update.
WRITTEN_AGAINST = {
    "_tokenize_prompts": "d2d27f7c9bfda85f",
    "_generate": "2a27fdf8f5e6f356",
    "_generate_single_turn": "e0f02e4fc094cefd",
    "_get_per_token_logps_and_entropies": "ea73c3909275851d",
    "_compute_loss": "80295546bbdbf6f7",
    "training_step": "9e18632f7dd8e8d8",
    "_prepare_inputs": "f824e7fb07147956",
    "_calculate_rewards": "736ae29b083840b5",
    "_generate_and_score_completions": "1fa48922792dcd5c",
}


def test_the_methods_that_we_override_are_those_of_the_trl_that_we_read():
    assert set(OVERRIDES) == set(WRITTEN_AGAINST)
    for name, expected in WRITTEN_AGAINST.items():
        source = inspect.getsource(getattr(GRPOTrainer, name))
        found = hashlib.sha256(source.encode()).hexdigest()[:16]
        assert found == expected, f"trl's GRPOTrainer.{name} is not the one that RankingGRPOTrainer was written against"


@pytest.mark.parametrize("lora", [False, True])
def test_kl_to_the_reference_is_zero_at_the_first_step(tiny_model_dir, chatml_tokenizer, tmp_path, lora):
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, lora=lora, beta=0.1)
    run.train()
    kl = [row["kl"] for row in run.state.log_history if "kl" in row]
    assert kl[0] == pytest.approx(0.0, abs=1e-7)
    assert kl[1] > 1e-7  # the first step, at learning rate 1e-3, moved the policy away from its reference


@pytest.mark.parametrize("settings", [{}, {"beta": 0.04, "num_iterations": 2, "max_steps": 4}], ids=["plain", "kl-mu2"])
def test_shared_prefix_trains_to_the_same_weights_as_trls_own_forward(
    tiny_model_dir, chatml_tokenizer, tmp_path, settings
):
    weights = []
    for shared in (True, False):
        torch.manual_seed(0)
        run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, shared_prefix=shared, **settings)
        run.train()
        assert (run.log_probs.refusal is None) == shared
        weights.append({n: p.detach().clone() for n, p in run.model.named_parameters()})
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).state_dict()
    moved = max((weights[0][n] - start[n]).abs().max().item() for n in weights[0])
    apart = max((weights[0][n] - weights[1][n]).abs().max().item() for n in weights[0])
    # AdamW divides by the gradient's own scale, so rounding in a tiny gradient shows; it stays far below the movement.
    assert moved > 1e-3
    assert apart < 0.05 * moved


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "dapo"},
        {
            "loss_type": "grpo",
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "steps_per_generation": 1,
        },
        {"num_iterations": 2, "max_steps": 4},
    ],
    ids=["a-group-a-micro-batch", "two-groups", "mu2"],
)
def test_groups_that_teach_nothing_are_skipped_without_a_trace(
    tiny_model_dir, chatml_tokenizer, tmp_path, monkeypatch, settings, shared
):
    weights, lengths, norms = [], [], []
    for skips in (True, False):
        torch.manual_seed(0)
        run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, shared_prefix=shared, **settings)
        run.task = replace(run.task, terms=[Term("ndcg", Uneven("q0", "q2", "q4")), Term("format", Format())])
        if not skips:
            monkeypatch.setattr(run, "_to_skip", lambda inputs: None)
        rows = []
        run.model.register_forward_pre_hook(
            lambda module, args, kwargs, rows=rows: rows.append(kwargs["input_ids"].numel() * module.training),
            with_kwargs=True,
        )
        run.train()
        weights.append({n: p.detach().clone() for n, p in run.model.named_parameters()})
        lengths.append(rows)
        norms.append([row["grad_norm"] for row in run.state.log_history if "grad_norm" in row])
        if skips:
            shares = [row["skipped_groups"] for row in run.state.log_history if "skipped_groups" in row]
            assert 0 < sum(shares) < len(shares)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-5), name
    # As many forwards as without skipping, on fewer tokens.
    assert len(lengths[0]) == len(lengths[1])
    assert sum(lengths[0]) < sum(lengths[1])


def test_a_shared_prefix_that_differs_from_separate_rows_is_given_up(
    tiny_model_dir, chatml_tokenizer, tmp_path, monkeypatch, caplog
):
    right = attention.tree_attention

    def forgetful(query, key, value, layout, **settings):
        return right(query, key, value.roll(1, 2), layout, **settings)

    monkeypatch.setattr(attention, "tree_attention", forgetful)
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path)
    run.train()
    assert "nats apart from those of separate rows, more than 0.001" in run.log_probs.refusal
    assert run.log_probs.refusal in caplog.text


def test_rewards_reach_the_table_unpermuted_and_in_the_groups_they_belong_to(
    tiny_model_dir, chatml_tokenizer, tmp_path
):
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, max_steps=1)
    run.train()
    assert len(run.completions) == 8
    for start in (0, 4):
        group = run.completions[start : start + 4]
        assert len({row["qid"] for row in group}) == 1
        rewards = torch.tensor([row["reward"] for row in group])
        for row in group:
            assert row["reward"] == pytest.approx(sum(row["rewards"].values()))
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        assert torch.allclose(torch.tensor([row["advantage"] for row in group]), expected, atol=1e-4)


def test_the_control_permutes_advantages_within_groups_and_logs_true_rewards(
    tiny_model_dir, chatml_tokenizer, tmp_path
):
    torch.manual_seed(0)
    true = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, max_steps=1)
    true.train()
    torch.manual_seed(0)
    control = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, max_steps=1, permute=True)
    control.train()
    assert [r["reward"] for r in control.completions] == [r["reward"] for r in true.completions]
    for start in (0, 4):
        ours = [r["advantage"] for r in control.completions[start : start + 4]]
        theirs = [r["advantage"] for r in true.completions[start : start + 4]]
        assert sorted(ours) == pytest.approx(sorted(theirs), abs=1e-5)
    assert [r["advantage"] for r in control.completions] != [r["advantage"] for r in true.completions]


def test_a_reward_that_is_not_finite_stops_the_run_and_names_itself(tiny_model_dir, chatml_tokenizer, tmp_path):
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path)
    run.task = Task(
        run.task.questions,
        run.task.paradigm,
        [Term("broken", lambda e, r: float("nan")), Term("f", Format())],
    )
    with pytest.raises(ValueError, match=r"reward 'broken' returned nan for qid 'q\d'"):
        run.train()


def test_completions_of_one_worth_teach_exactly_nothing(tiny_model_dir, chatml_tokenizer, tmp_path):
    # The mean of four times 0.3 is not 0.3 in float32, and trl divides what is left by a standard deviation of 0.
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, max_steps=1)
    run.task = replace(run.task, terms=[Term("ndcg", lambda e, r: 0.3), Term("length", lambda e, r: 0.1)])
    run.train()
    assert [row["advantage"] for row in run.completions] == [0.0] * 8
    assert run.state.log_history[0]["skipped_groups"] == 1
