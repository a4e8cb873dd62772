"""vLLM's samples on policy: the update's forward gives what a forward before it would."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
from support.completion_groups import GENERATIONS, GROUPS, batch, gradients, plain_log_probs
from support.grpo_trainer import trainer

from rl_rerank.stages.grpo.policies import TokensPolicy
from rl_rerank.stages.grpo.rollouts import VLLMRollouts
from rl_rerank.training.grpo import algorithms
from rl_rerank.training.grpo.on_policy import OnPolicyCorrection, importance_ratio

pytestmark = pytest.mark.slow

ROWS, LONGEST = GROUPS * GENERATIONS, 7
MODES = get_args(get_type_hints(VLLMRollouts)["correction"])
BOUND = 1.2


def test_ratios_are_bounded_or_left_out_by_token_or_by_sequence():
    trainer = torch.log(torch.tensor([[0.4, 0.2, 0.5], [0.2, 0.2, 0.2]]))
    engine = torch.log(torch.tensor([[0.1, 0.4, 0.5], [0.2, math.nan, 0.1]]))
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])

    def ratios(mode, low=None):
        return importance_ratio(trainer, engine, mask, mode, low, 3.0).tolist()

    # .4 / .1 = 4 and .2 / .4 = .5; then 1, 1 where the engine gave none, and 2. Whole sequences: 4 x .5 and 1 x 2.
    assert ratios("token_truncate") == [pytest.approx([3, 0.5, 1]), pytest.approx([1, 1, 2])]
    assert ratios("token_mask") == [pytest.approx([0, 0.5, 1]), pytest.approx([1, 1, 2])]
    assert ratios("token_mask", low=0.8) == [pytest.approx([0, 0, 1]), pytest.approx([1, 1, 2])]
    assert ratios("sequence_truncate") == [pytest.approx([2]), pytest.approx([2])]
    assert importance_ratio(trainer, engine, mask, "sequence_mask", None, 1.9).tolist() == [[0], [0]]


def loss_of(run, inputs):
    loss = run._compute_loss(run.model.train(), inputs)
    loss.backward()
    return loss.item(), gradients(run.model)


def prepared(tiny_model_dir, chatml_tokenizer, tmp_path, algorithm, mode):
    """A trainer that corrects by `mode`, a micro-batch as vLLM's samples give it, and the log-probabilities of its
    own plain forward."""
    run = trainer(
        tiny_model_dir,
        chatml_tokenizer,
        tmp_path,
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        max_completion_length=LONGEST,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=BOUND,
        **algorithms.arguments(TokensPolicy(algorithm=algorithm), None),
    )
    run.current_gradient_accumulation_steps = 1
    run.use_vllm = True  # as if an engine had sampled
    prompt_ids, prompt_mask, completion_ids, mask = batch()
    generator = torch.Generator().manual_seed(4)
    advantages = torch.randn(ROWS, generator=generator)
    advantages[:GENERATIONS] = 0  # A group that teaches nothing.
    with torch.no_grad():
        own = plain_log_probs(run.model.train(), prompt_ids, prompt_mask, completion_ids, mask, 1.0)
    engine = (own + 0.3 * torch.randn(ROWS, LONGEST, generator=generator)) * mask
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": mask,
        "advantages": advantages,
        "sampling_per_token_logps": engine,
        "num_items_in_batch": mask.sum(),
    }
    return run, inputs, own


@pytest.mark.parametrize("algorithm", ["dr_grpo", "dapo", "gspo", "cispo"])
@pytest.mark.parametrize("mode", MODES)
def test_loss_and_gradient_are_those_of_a_forward_more(tiny_model_dir, chatml_tokenizer, tmp_path, algorithm, mode):
    run, inputs, own = prepared(tiny_model_dir, chatml_tokenizer, tmp_path, algorithm, mode)
    difference = (own - inputs["sampling_per_token_logps"]) * inputs["completion_mask"]
    if mode.startswith("sequence"):
        difference = difference.sum(1, keepdim=True)
    ratio = difference.exp()
    assert (ratio > BOUND).any() and (ratio < BOUND).any()
    ratio = ratio.clamp(max=BOUND) if mode.endswith("truncate") else ratio * (ratio <= BOUND)
    expected, by_plain = loss_of(run, {**inputs, "old_per_token_logps": own, "importance_sampling_ratio": ratio})

    run.on_policy = OnPolicyCorrection.of(run, math.inf)
    assert run.on_policy is not None
    loss, ours = loss_of(run, inputs)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert by_plain.norm() > 1e-3
    assert (ours - by_plain).norm() / by_plain.norm() < 1e-4
    # The gap of the groups that were computed: a skipped group has no log-probabilities of its own.
    gaps = difference if mode.startswith("token") else (own - inputs["sampling_per_token_logps"])
    mask = inputs["completion_mask"][GENERATIONS:]
    gap = (gaps[GENERATIONS:].abs() * mask).sum() / mask.sum()
    assert run._metrics["train"]["rollout/logprob_gap"] == [pytest.approx(gap.item(), rel=1e-4)]


def test_the_clip_of_gspo_is_not_below_the_rounding_of_another_micro_batch(tiny_model_dir, chatml_tokenizer, tmp_path):
    run, inputs, own = prepared(tiny_model_dir, chatml_tokenizer, tmp_path, "gspo", "token_truncate")
    # What bfloat16 makes of the same group in another micro-batch: a few thousandths of the sequence's ratio.
    rounded = own + 5e-3 * torch.randn(own.shape, generator=torch.Generator().manual_seed(5))
    ratio = torch.ones_like(own)
    loss_of(run, {**inputs, "old_per_token_logps": rounded, "importance_sampling_ratio": ratio})
    clipped = run._metrics["train"]["clip_ratio/region_mean"]
    assert clipped.pop() > 0.2
    run.on_policy = OnPolicyCorrection.of(run, math.inf)
    loss_of(run, inputs)
    assert clipped.pop() == 0


def test_a_stale_engine_stops_the_step_in_its_last_micro_batch(tiny_model_dir, chatml_tokenizer, tmp_path):
    run, inputs, _ = prepared(tiny_model_dir, chatml_tokenizer, tmp_path, "dr_grpo", "token_truncate")
    run.on_policy = OnPolicyCorrection.of(run, 0.1)
    run.accelerator.gradient_state._set_sync_gradients(False)
    loss_of(run, inputs)
    run.accelerator.gradient_state._set_sync_gradients(True)
    with pytest.raises(ValueError, match=r"step 1: vLLM's log-probabilities .* are 0\.2\d* nats from the trainer's"):
        loss_of(run, inputs)


@pytest.mark.parametrize(
    "settings", [{"num_iterations": 2}, {"steps_per_generation": 2}], ids=["two-passes", "two-updates"]
)
def test_off_policy_the_old_forward_stays(tiny_model_dir, chatml_tokenizer, tmp_path, settings):
    run = trainer(
        tiny_model_dir,
        chatml_tokenizer,
        tmp_path,
        gradient_accumulation_steps=1,
        **{"steps_per_generation": 1, **settings},
    )
    run.use_vllm = True
    assert OnPolicyCorrection.of(run, math.inf) is None
