"""Fixtures: small tokenizers and a tiny random model, made on the spot."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from support import small_tokenizers as small

LONGEST = (
    "test_end_to_end.py",
    "test_sharded_run.py",
    "training/test_vllm_rollout.py",
    "training/test_dev_by_vllm.py",
    "training/test_sharded.py",
    "training/test_precision.py",
    "launch/test_scripts.py",
    "engines/test_vllm_server.py",
    "training/test_whole_queries.py",
)
"""Files that take most of a minute or more, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first: workers take whole files, and one that starts last would be waited for."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from visiting modules and tests again and again: they stay until the end."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter free them at its end: libraries written in C++ report what is left as leaks."""
    gc.unfreeze()


# Stages compute in float32 on any processor, as their comparisons expect.
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"


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
def tiny_vl_dir(tmp_path_factory) -> Path:
    """The embedded model that sees, around a small ChatML tokenizer: 9 tokens an image, context 4,096."""
    from rl_rerank.engines.local import tiny_vl

    folder = tmp_path_factory.mktemp("models") / "tiny_vl"
    tiny_vl.make(small.build(["<|im_start|>", "<|im_end|>", "<pad>"], small.CHATML, "<|im_end|>", "<pad>"), folder)
    return folder


@pytest.fixture
def groups_in_order(monkeypatch):
    """Groupwise forms its groups in shown order instead of at random, so that a test's arithmetic can be followed."""
    from rl_rerank.paradigms.groupwise import Groupwise

    def groups(self, example, repeat):
        return [list(example.docids[i : i + self.size]) for i in range(0, len(example.docids), self.size)]

    monkeypatch.setattr(Groupwise, "_groups", groups)
