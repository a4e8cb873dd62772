"""The comparison behind a sync, on modules that keep plain weights as vLLM's do on a GPU; test_vllm_rollout has it."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from rl_rerank.training.grpo.sync_check import compare, refusal


class Engine(nn.Module):
    """Fused projections and a vocabulary padded to 8 of 6 tokens."""

    packed_modules_mapping: ClassVar = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}

    def __init__(self, policy, *, tied):
        super().__init__()
        self.config = SimpleNamespace(tie_word_embeddings=tied)
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(8, 4)
        self.model.attn = nn.Module()
        self.model.attn.qkv_proj = nn.Linear(4, 8, dtype=torch.bfloat16)
        self.model.attn.qkv_proj.output_sizes = [4, 2, 2]
        self.lm_head = nn.Linear(4, 8, bias=False)
        with torch.no_grad():
            for kind in ("weight", "bias"):
                parts = [policy[f"model.attn.{part}_proj.{kind}"] for part in "qkv"]
                getattr(self.model.attn.qkv_proj, kind).copy_(torch.cat(parts))
            for module, name in ((self.model.embed_tokens, "model.embed_tokens"), (self.lm_head, "lm_head")):
                name = "model.embed_tokens" if tied else name
                module.to(torch.bfloat16).weight[:6] = policy[f"{name}.weight"].bfloat16()


def policy(*, tied):
    torch.manual_seed(0)
    weights = {"model.embed_tokens.weight": torch.randn(6, 4)}
    for part, size in (("q", 4), ("k", 2), ("v", 2)):
        weights[f"model.attn.{part}_proj.weight"] = torch.randn(size, 4)
        weights[f"model.attn.{part}_proj.bias"] = torch.randn(size)
    return weights if tied else {**weights, "lm_head.weight": torch.randn(6, 4)}


@pytest.mark.parametrize("tied", [True, False])
def test_an_engine_with_rounded_copies_of_all_weights_has_them(tied):
    sent = policy(tied=tied)
    found = compare(Engine(sent, tied=tied), sent.items(), torch.bfloat16)
    assert refusal(found) is None
    assert sorted(found.equal) == sorted({*sent, "lm_head.weight"})


@pytest.mark.parametrize("name", policy(tied=False))
def test_every_weight_that_is_older_by_one_value_is_named(name):
    sent = policy(tied=False)
    engine = Engine(sent, tied=False)
    sent[name].view(-1)[-1] += 0.125
    found = compare(engine, sent.items(), torch.bfloat16)
    assert list(found.different) == [name]
    assert "1 of " in found.different[name] and "by up to 0.12" in found.different[name]
    assert f"not hold the policy's weights after they were sent: {name} is another tensor" in (refusal(found) or "")


def test_a_head_that_is_a_copy_of_the_tied_embedding_is_compared_with_it():
    sent = policy(tied=True)
    engine = Engine(sent, tied=True)
    with torch.no_grad():
        engine.lm_head.weight[0, 0] = torch.nan
    assert list(compare(engine, sent.items(), torch.bfloat16).different) == ["lm_head.weight"]


def test_what_the_engine_keeps_in_another_form_is_not_compared_and_all_is_read():
    sent = policy(tied=True) | {"model.experts.0.weight": torch.zeros(2), "model.attn.k_proj.scale": torch.ones(1)}
    read = []
    found = compare(
        Engine(sent, tied=True), ((name, read.append(name) or weight) for name, weight in sent.items()), torch.bfloat16
    )
    assert found.unknown == ["model.experts.0.weight", "model.attn.k_proj.scale"]
    assert read == list(sent)
    assert refusal(found) is None
