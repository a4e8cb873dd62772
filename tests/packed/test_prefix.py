"""Pieces that continue a kept prompt give the log-probabilities and gradients of one row that has the prompt."""

import math
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.completion_groups import KINDS, SIZES, moe, tiny
from transformers import LlamaConfig, LlamaForCausalLM

from rl_rerank.packed import attention, forward
from rl_rerank.packed.layout import pack
from rl_rerank.packed.prefix import Prefix, cost, refusal
from rl_rerank.packed.segment_attention import segment_attention
from rl_rerank.training.memory.activations import _Live


def group(seed, *, prompt=20, completions=6, longest=9):
    """Completions of one prompt; the last is the first once more, and two begin alike."""
    rng = random.Random(seed)
    shared = [rng.randrange(1, 97) for _ in range(prompt)]
    found = [[rng.randrange(1, 97) for _ in range(rng.randint(1, longest))] for _ in range(completions - 2)]
    found += [[*found[0], 5], found[0]]
    return [(shared + own, prompt) for own in found]


def built(kind, lora=None):
    model = moe() if kind == "moe" else tiny(kind)
    if lora is not None:
        targets = ["q_proj", "lm_head"] if lora == "head" else "all-linear"
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
        model.enable_input_require_grads()
    forward.install(model)
    return model.train()


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def outcome(model, asked, sizes):
    """Log-probabilities and gradients of sequences, in one row or, with sizes, in pieces that continue their prompt."""
    weights = torch.linspace(-1, 1, sum(len(ids) - first for ids, first in asked)) + 0.3
    prefix, start, found = Prefix(len(sizes)), 0, []
    for size in sizes or [len(asked)]:
        packed = pack(asked[start : start + size])
        own = (prefix.scored if sizes else forward.scored)(model, packed, temperature=0.7).log_probs
        (own * weights[: len(own)]).sum().backward()
        weights, start = weights[len(own) :], start + size
        found.append(own.detach())
    return torch.cat(found), gradients(model)


def same(one, other):
    assert (one[0] - other[0]).abs().max() <= 1e-5
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert (gradient - other[1][name]).norm() <= 1e-4 * gradient.norm().clamp(min=1e-6), name


@pytest.mark.parametrize("has_checkpoints", [False, True])
@pytest.mark.parametrize("lora", [None, "all-linear", "head"])
@pytest.mark.parametrize("kind", [*KINDS, "moe"])
def test_pieces_equal_one_row_forward_and_backward(kind, lora, has_checkpoints):
    model, asked = built(kind, lora), group(0)
    expected = outcome(model, asked, ())
    if has_checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert refusal(model) is None
    same(expected, outcome(model, asked, (2, 1, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_equal_one_row_by_the_attention_of_other_devices(kind, monkeypatch):
    model, asked = built(kind), group(1)
    expected = outcome(model, asked, ())
    used = []
    monkeypatch.setattr(attention, "tree_attention", lambda *a, **k: used.append(1) or segment_attention(*a, **k))
    same(expected, outcome(model, asked, (3, 3)))
    assert len(used) == 3 * (1 + 2)  # a layer each, of the prompt and two pieces


@pytest.mark.parametrize("seed", range(30))
def test_pieces_of_any_lengths_equal_one_row(seed):
    rng = random.Random(seed)
    prompt, longest = rng.choice([2, 3, 7, 30, 70]), rng.choice([1, 20])
    asked = group(seed, prompt=prompt, completions=rng.randint(3, 9), longest=longest)
    cuts = sorted(rng.sample(range(1, len(asked)), rng.randint(1, len(asked) - 1)))
    sizes = [stop - start for start, stop in zip([0, *cuts], [*cuts, len(asked)], strict=True)]
    model = built(rng.choice(list(KINDS)))
    same(outcome(model, asked, ()), outcome(model, asked, sizes))


def test_without_gradients_pieces_give_the_same():
    model, asked = built("gemma3"), group(2)
    with torch.no_grad():
        expected = forward.scored(model, pack(asked), with_entropy=True)
        prefix = Prefix(2)
        found = [prefix.scored(model, pack(some), with_entropy=True) for some in (asked[:4], asked[4:])]
    for name in ("log_probs", "entropy"):
        assert torch.allclose(torch.cat([each[name] for each in found]), expected[name], atol=1e-5)


def test_the_prompt_is_computed_once_and_each_piece_reads_its_last_token():
    model, asked = built("llama"), group(3)
    read = []
    model.register_forward_pre_hook(lambda m, a, kwargs: read.append(kwargs["input_ids"][0].tolist()), with_kwargs=True)
    outcome(model, asked, (1, 5))
    ids, first = asked[0]
    assert read[0] == ids[: first - 1]
    assert read[1] == ids[first - 1 : -1]
    assert len(read) == 3 and read[2][0] == ids[first - 1]


def test_weights_get_their_gradients_in_the_order_of_any_other_backward():
    # DDP waits for all of them; ZeRO-1 and 2 lay them out in this order, and add them up over processes.
    model, asked, orders = built("qwen3"), group(5), []
    prefix = Prefix(2)
    for name, p in model.named_parameters():
        p.register_post_accumulate_grad_hook(lambda _, n=name: orders[-1].append(n))
    for compute, some in ((forward.scored, asked), (prefix.scored, asked[:3]), (prefix.scored, asked[3:])):
        orders.append([])
        compute(model, pack(some)).log_probs.sum().backward()
    assert sorted(orders[0]) == sorted(name for name, _ in model.named_parameters())
    assert orders[0] == orders[1] == orders[2]


def test_models_that_cannot_keep_prompts_are_refused():
    model = built("llama")
    model.gradient_checkpointing_enable({"use_reentrant": True})
    assert refusal(model) == "reentrant gradient checkpointing computes layers without a graph"
    model = built("llama")
    model.lm_head.weight.ds_id = 0  # as DeepSpeed marks a weight that it has sharded
    assert "ZeRO-3" in refusal(model)
    config = tiny("llama").config.to_dict() | {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    }
    assert "dynamic, depends on the longest position" in refusal(LlamaForCausalLM(LlamaConfig(**config)))


@pytest.mark.parametrize("has_checkpoints", [False, True])
@pytest.mark.parametrize("heads", [1, 4])  # of keys; 4 are of queries
def test_a_kept_prompt_and_its_pieces_need_no_more_memory_than_a_row_of_the_budget(heads, has_checkpoints):
    sizes = SIZES | {"num_hidden_layers": 16, "intermediate_size": 96, "num_key_value_heads": heads}
    model, prompt, budget = LlamaForCausalLM(LlamaConfig(**sizes)), 300, 1400
    forward.install(model.train())
    if has_checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    left = budget - math.ceil(cost(model) * (prompt - 1))
    assert left >= 200
    rng = random.Random(0)
    shared, *others = ([rng.randrange(1, 97) for _ in range(count)] for count in (prompt, budget - prompt, *[left] * 3))
    row, *pieces = (pack([(shared + own, prompt)]) for own in others)
    assert row.layout.length == budget - 1
    forward.scored(model, pieces[0]).log_probs.sum().backward()  # gradients of weights are there already
    known = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]

    def peak(compute, packed):
        with _Live(known) as live:
            for each in packed:
                compute(model, each).log_probs.sum().backward()
        return live.peak

    assert peak(Prefix(3).scored, pieces) <= peak(forward.scored, [row])
