# ruff: noqa: T201 (a script whose output is its result)
"""The update on one packed row against a row for each completion: forward and backward of one GRPO group.

    python benchmarks/packed_update.py [--rounds 3] [--settings 384/128/8 1024/32/8 1024/32/16]
    python benchmarks/packed_update.py --count-only --settings 3000/1000/8 3000/2000/8 1024/32/16 --budget 8192

A setting is P/R/G: a prompt of P tokens and G completions whose lengths are drawn from a log-normal distribution of
mean R (coefficient of variation .8 above 100 tokens; all of R below). The model is SmolLM2-135M in float32; both sides
take its log-probabilities at labelled positions only and run in turn. Rows of the plain side are computed one by one,
without padding. The ratio of floating-point operations is what could be gained if nothing else cost time. Tokens are
compared with those of the prefix tree of the group, counted by hand, and with those of the micro-batches that training
would make within a token budget: with each part of a divided group computing the prompt, and with its keys and values
kept.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local.checkpoint import base_model_dir
from rl_rerank.packed.forward import install, pack, scored
from rl_rerank.packed.layout import Labelled
from rl_rerank.training.grpo.micro_batches import pieces
from rl_rerank.training.loop.micro_batches import TokenBudget

PROMPT_COST = 1.3
"""Of a model with as many key heads as query heads, without gradient checkpointing."""


class Setting(NamedTuple):
    """Tokens of the prompt, mean tokens of a completion, completions."""

    prompt: int
    completion: int
    group: int


def group(setting: Setting, seed: int, vocabulary: int) -> list[Labelled]:
    """Draw a prompt and its completions."""
    rng = random.Random(seed)
    prompt = [rng.randrange(vocabulary) for _ in range(setting.prompt)]
    found: list[Labelled] = []
    for _ in range(setting.group):
        length = setting.completion
        if length > 100:
            sigma = math.sqrt(math.log(1 + 0.8**2))
            length = max(1, round(rng.lognormvariate(math.log(setting.completion) - sigma**2 / 2, sigma)))
        found.append(([*prompt, *(rng.randrange(vocabulary) for _ in range(length))], len(prompt)))
    return found


def tree_tokens(sequences: list[Labelled]) -> int:
    """Count the nodes of the prefix tree of what is read, token by token."""
    root: dict[int, Any] = {}
    count = 0
    for ids, _ in sequences:
        node = root
        for token in ids[:-1]:
            if token not in node:
                node[token] = {}
                count += 1
            node = node[token]
    return count


def budget_tokens(sequences: list[Labelled], tokens: int, prompt_cost: float | None) -> int:
    """Count the tokens of a group's micro-batches, with `TokenBudget.prompt_cost`."""
    budget = TokenBudget(tokens, is_packed=True, prompt_cost=prompt_cost)
    _, prompt = sequences[0]
    asked = (range(len(sequences)), prompt, [len(ids) - prompt for ids, _ in sequences])
    units, continuing = pieces(budget, *asked)
    return sum(unit.tokens for unit in (*units, *continuing)) + (prompt - 1 if continuing else 0)


def operations(config: Any, weights: int, tokens: int, pairs: int, labels: int) -> float:
    """Floating-point operations of a forward; a backward has twice as many."""
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * pairs
    return 2 * weights * tokens + attention + 2 * config.hidden_size * config.vocab_size * labels


def plain(model: Any, sequences: list[Labelled]) -> torch.Tensor:
    """A row for each completion, without padding, forward and backward one after the other."""
    total = torch.zeros(())
    for ids, first in sequences:
        row = torch.tensor([ids])
        logits = model(input_ids=row[:, :-1], logits_to_keep=len(ids) - first, use_cache=False).logits[0]
        own = logits.log_softmax(-1).gather(1, row[0, first:, None]).sum()
        own.backward()
        total += own.detach()
    return total


def packed(model: Any, sequences: list[Labelled]) -> torch.Tensor:
    """The same in one row."""
    own = scored(model, pack(sequences)).log_probs.sum()
    own.backward()
    return own.detach()


def measured(model: Any, setting: Setting, rounds: int) -> str:
    """Time both sides in turn and compare their sums and gradients."""
    sequences = group(setting, 0, model.config.vocab_size)
    seconds: dict[str, list[float]] = {"plain": [], "packed": []}
    sums: dict[str, torch.Tensor] = {}
    gradients: dict[str, torch.Tensor] = {}
    for _ in range(rounds):
        for name, way in (("plain", plain), ("packed", packed)):
            model.zero_grad()
            start = time.perf_counter()
            sums[name] = way(model, sequences)
            seconds[name].append(time.perf_counter() - start)
            gradients[name] = torch.cat([p.grad.flatten() for p in model.parameters()])
    lengths, labels = [len(ids) - 1 for ids, _ in sequences], sum(len(ids) - first for ids, first in sequences)
    layout = pack(sequences).layout
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    of = (model.config, weights)
    separate = operations(*of, sum(lengths), sum(n * (n + 1) // 2 for n in lengths), labels)
    together = operations(*of, layout.length, int((layout.positions + 1).sum()), labels)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio, possible = medians["plain"] / medians["packed"], separate / together
    apart = (gradients["plain"] - gradients["packed"]).norm() / gradients["plain"].norm()
    return (
        f"| {'/'.join(map(str, setting))} | {ratio:.2f} | {possible:.2f} | {ratio / possible:.0%} "
        f"| {medians['plain']:.1f}, {medians['packed']:.1f} | {sum(lengths) / layout.length:.2f} "
        f"| {(sums['plain'] - sums['packed']).abs() / labels:.1e} | {apart:.1e} |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=["384/128/8", "1024/32/8", "1024/32/16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count-only", action="store_true", help="count tokens, compute nothing")
    parser.add_argument("--budget", type=int, default=8_192, help="tokens of a micro-batch that are counted")
    given = parser.parse_args()
    settings = [Setting(*map(int, setting.split("/"))) for setting in given.settings]
    if given.count_only:
        print("| P/R/G | tokens of the row | of the tree | ratio | of separate rows | prompt again | prompt kept |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for setting in settings:
            sequences = group(setting, 0, 40_000)
            row, tree = pack(sequences).layout.length, tree_tokens(sequences)
            separate = sum(len(ids) - 1 for ids, _ in sequences)
            counted = f"{row:,} | {tree:,} | {row / tree:.3f} | {separate:,}"
            again, kept = (budget_tokens(sequences, given.budget, cost) for cost in (None, PROMPT_COST))
            print(f"| {'/'.join(map(str, setting))} | {counted} | {again:,} | {kept:,} |")
        return
    model = AutoModelForCausalLM.from_pretrained(base_model_dir(ModelConfig(path="smollm2")), dtype=torch.float32)
    install(model)
    print("| P/R/G | times as fast | operations | share | seconds | tokens | nats a label apart | gradients apart |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for setting in settings:
        print(measured(model, setting, given.rounds), flush=True)


if __name__ == "__main__":
    main()
