"""Adapters merged out of place, for every kind of layer that can have one, and the check of each merge."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen3MoeConfig

from rl_rerank.engines.local import adapters

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
LLAMA = LlamaConfig(**SIZES, tie_word_embeddings=True)
UNTIED = LlamaConfig(**SIZES, tie_word_embeddings=False)
CASES = {
    "all linear": (LLAMA, "all-linear"),
    "embedding and head": (UNTIED, ["embed_tokens", "lm_head", "q_proj"]),
    "scaled embedding": (Gemma3TextConfig(**SIZES, head_dim=8, tie_word_embeddings=False), ["embed_tokens"]),
    "transposed": (
        GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=2),
        "all-linear",
    ),
    "experts": (Qwen3MoeConfig(**SIZES, **EXPERTS), "all-linear"),
}


def adapted(config, targets, dtype, **settings):
    """A random model with a random adapter, and the names of the model's weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    names = [name for name, _ in model.named_parameters()]
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **settings)
    model = get_peft_model(model, lora)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.1)
    return model.eval(), names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_a_merged_model_computes_what_the_adapted_one_does(case, dtype):
    model, names = adapted(*CASES[case], dtype)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    weights = dict(adapters.merged_weights(model))
    assert list(weights) == names
    assert {weight.dtype for weight in weights.values()} == {dtype}
    # Not a bit of the adapted model has changed, and it still is one.
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())

    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = model(ids).logits.float()
        with model.disable_adapter():
            base = model(ids).logits.float()
        merged = adapters.merge(model, "here")
        found = merged(ids).logits.float()
    assert {name: w.tolist() for name, w in merged.named_parameters()} == {n: w.tolist() for n, w in weights.items()}
    bound = 1e-5 if dtype is torch.float32 else 0.05
    assert (found - expected).norm() < bound * expected.norm()
    assert (base - expected).norm() > 0.1 * expected.norm()


def test_the_sum_is_rounded_once_from_float32():
    model, _ = adapted(LLAMA, ["q_proj"], torch.bfloat16)
    name = "model.layers.1.self_attn.q_proj"
    layer = model.get_base_model().get_submodule(name)
    # scale = alpha / r = 8 / 4
    update = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = (layer.base_layer.weight.float() + update).to(torch.bfloat16)
    assert torch.equal(dict(adapters.merged_weights(model))[f"{name}.weight"], expected)
    # DeepSpeed may keep the adapter in bfloat16; its product is not rounded before the sum either.
    layer.to(torch.bfloat16)
    a, b = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
    expected = (layer.base_layer.weight.float() + 2.0 * b @ a).to(torch.bfloat16)
    assert torch.equal(dict(adapters.merged_weights(model))[f"{name}.weight"], expected)


def test_a_layer_that_is_trained_whole_is_sent_as_trained():
    model, names = adapted(UNTIED, ["q_proj"], torch.float32, modules_to_save=["lm_head"])
    trained = model.get_base_model().lm_head.modules_to_save["default"].weight
    trained.data.normal_()
    weights = dict(adapters.merged_weights(model))
    assert list(weights) == names
    assert torch.equal(weights["lm_head.weight"], trained)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", ["lm_head", "embed_tokens"])
def test_a_merge_that_changes_the_model_is_refused(tied, dtype):
    model, _ = adapted(LLAMA, ["q_proj", tied], dtype)
    message = (
        rf"^checkpoint-3: merging the adapter of the modules .*{tied}.* changes the model.*by \d.*explains at most"
    )
    with pytest.raises(ValueError, match=message):
        adapters.merge(model, "checkpoint-3")
