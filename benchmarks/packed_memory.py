# ruff: noqa: T201 (a script whose output is its result)
"""Peak memory of the output head and of attention over packed rows, as tokens and the vocabulary grow.

    python benchmarks/packed_memory.py

Forward and backward on a CPU in float32, each in a process of its own: the peak above what inputs, weights and their
gradients take. The head has a hidden size of 576 and trains its weights. Attention has 9 heads of 64 over a prompt of a
quarter of the tokens and six completions. `whole` is what the plain formulas would hold at least: the logits and their
gradient, the matrix of scores and its gradient.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
from typing import Any

import torch
from torch import nn

from rl_rerank.packed.head import Asked, projected
from rl_rerank.packed.layout import pack
from rl_rerank.packed.tree_attention import tree_attention

MIB = 2**20


class Config:
    """A configuration without scales and caps."""


def peak() -> int:
    """Bytes of memory that the process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def head(tokens: int, vocabulary: int, results: Any) -> None:
    """Forward and backward of the head."""
    torch.set_num_threads(1)
    linear = nn.Linear(576, vocabulary, bias=False)
    linear.weight.grad = torch.zeros_like(linear.weight)
    hidden = torch.randn(tokens, 576, requires_grad=True)
    labels = torch.randint(vocabulary, (tokens,))
    warm = Asked(torch.arange(8), labels[:8])
    projected(linear, hidden[:8], warm, Config()).log_probs.sum().backward()
    before = peak()
    projected(linear, hidden, Asked(torch.arange(tokens), labels), Config()).log_probs.sum().backward()
    results.put(peak() - before)


def attention(tokens: int, results: Any) -> None:
    """Forward and backward of one layer's attention."""
    torch.set_num_threads(1)
    prompt = list(range(tokens // 4))
    layout = pack([([*prompt, *[10_000_000 + i] * (tokens // 8)], len(prompt)) for i in range(6)]).layout
    rows = [torch.randn(1, heads, layout.length, 64, requires_grad=True) for heads in (9, 3, 3)]
    short = pack([(list(range(20)), 1)]).layout
    query, key, value = (row[:, :, :19] for row in rows)
    tree_attention(query, key, value, short, scaling=None, window=None).sum().backward()
    before = peak()
    query, key, value = rows
    tree_attention(query, key, value, layout, scaling=None, window=None).sum().backward()
    results.put(peak() - before)


def alone(work: Any, *given: int) -> float:
    """Run in a new process; MiB."""
    # Freed blocks go back at once, so that the peak is what was held and not what was kept for later.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=work, args=(*given, results))
    process.start()
    found = results.get()
    process.join()
    return found / MIB


def main() -> None:
    """Print two tables."""
    print("| head: tokens | vocabulary | peak, MiB | whole |\n| ---: | ---: | ---: | ---: |")
    for tokens in (2000, 4000, 8000):
        for vocabulary in (49_152, 151_936):
            whole = 2 * 4 * tokens * vocabulary / MIB
            print(f"| {tokens:,} | {vocabulary:,} | {alone(head, tokens, vocabulary):.0f} | {whole:.0f} |", flush=True)
    print("\n| attention: tokens | peak, MiB | whole |\n| ---: | ---: | ---: |")
    for tokens in (2048, 4096, 8192):
        whole = 2 * 4 * 9 * tokens**2 / MIB
        print(f"| {tokens:,} | {alone(attention, tokens):.0f} | {whole:.0f} |", flush=True)


if __name__ == "__main__":
    main()
