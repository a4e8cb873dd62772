"""Ten optimizer steps on stored completions: with a prompt computed once for its group, and with trl's own forward."""

import pytest
import torch
from support.grpo_trainer import trainer
from support.sharded_grpo import NUM_STEPS, PROMPTS, record
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("settings", [{}, {"beta": 0.04, "num_iterations": 2}], ids=["plain", "kl-mu2"])
def test_ten_steps_end_in_the_same_weights(tiny_model_dir, chatml_tokenizer, tmp_path, settings):
    weights, rows = [], []
    for shared in (True, False):
        run = trainer(
            tiny_model_dir,
            chatml_tokenizer,
            tmp_path,
            shared_prefix=shared,
            num_questions=NUM_STEPS * PROMPTS,
            max_steps=NUM_STEPS,
            gradient_accumulation_steps=4,
            steps_per_generation=4,
            **settings,
        )
        record(run)
        run.train()
        assert (run.log_probs.refusal is None) == shared
        weights.append({n: p.detach().clone() for n, p in run.model.named_parameters()})
        rows.append([row for row in run.state.log_history if "grad_norm" in row])
    for one, other in zip(*rows, strict=True):
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).state_dict()
    moved = max((weights[0][n] - start[n]).abs().max().item() for n in weights[0])
    apart = max((weights[0][n] - weights[1][n]).abs().max().item() for n in weights[0])
    assert apart <= 1e-4
    assert moved > 5e-3  # ten steps of at most 1e-3 each
