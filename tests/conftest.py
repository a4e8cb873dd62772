"""Fixtures: small tokenizers and a tiny random model, made on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import small_tokenizers as small
from support import vllm_server


@pytest.fixture(scope="session")
def chatml_tokenizer():
    return small.chatml()


@pytest.fixture(scope="session", params=["chatml", "llama3", "mistral"])
def any_tokenizer(request):
    return getattr(small, request.param)()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory, chatml_tokenizer) -> Path:
    """A random Llama of 2 layers with a ChatML tokenizer, in float32, context 2,048."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(chatml_tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,  # the least that vLLM's CPU attention takes
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=chatml_tokenizer.eos_token_id,
            pad_token_id=chatml_tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    chatml_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vllm_address(tiny_model_dir, tmp_path_factory) -> Iterator[str]:
    """Where the session's one vLLM server answers for the tiny model; marked by `vllm_server.shared`."""
    with vllm_server.serving(tiny_model_dir, tmp_path_factory.mktemp("server") / "log.txt") as address:
        yield address


@pytest.fixture
def groups_in_order(monkeypatch):
    """Groupwise forms its groups in shown order instead of at random, so that a test's arithmetic can be followed."""
    from rl_rerank.paradigms.groupwise import Groupwise

    def groups(self, example, repeat):
        return [list(example.docids[i : i + self.size]) for i in range(0, len(example.docids), self.size)]

    monkeypatch.setattr(Groupwise, "_groups", groups)
