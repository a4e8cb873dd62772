# ruff: noqa: T201 (a script whose output is its result)
"""How long the slowest of eight processes computes, over the mean: groups where they were sampled, and dealt by cost.

    python benchmarks/balance.py

A simulation with the cost model of `rl_rerank/training/grpo/balance.py` for 7B weights in 28 layers. Prompts have 1,800
to 4,200 tokens. Lengths of completions are log-normal, with a mean that a group shares (1,000 tokens times a log-normal
factor of sigma .4: prompts differ in the length of the reasoning that they ask for), a coefficient of variation of .5
within it, and at most 3,072 tokens.
"""

from __future__ import annotations

import math
import random
import statistics

from rl_rerank.training.grpo.balance import Cost, deal

PROCESSES, GENERATIONS, STEPS = 8, 8, 500
COST = Cost(4 * 28 * 3584 / (2 * 7.6e9))
SIGMA = math.sqrt(math.log(1 + 0.5**2))


def main() -> None:
    """Print a table for docs/benchmarks.md."""
    rng = random.Random(0)
    print("| groups a process | as sampled | dealt |")
    print("| ---: | ---: | ---: |")
    for share in (1, 2, 4, 8):
        sampled, dealt = [], []
        for _ in range(STEPS):
            costs = [_group(rng) for _ in range(PROCESSES * share)]
            mean = sum(costs) / PROCESSES
            sampled.append(max(sum(costs[p * share : (p + 1) * share]) for p in range(PROCESSES)) / mean)
            dealt.append(max(sum(costs[g] for g in groups) for groups in deal(costs, PROCESSES)) / mean)
        print(f"| {share} | {statistics.mean(sampled):.2f} | {statistics.mean(dealt):.2f} |")


def _group(rng: random.Random) -> float:
    """The cost of a random group."""
    mean = 1000 * rng.lognormvariate(0, 0.4)
    center = math.log(mean) - SIGMA**2 / 2
    lengths = [max(8, min(3072, int(rng.lognormvariate(center, SIGMA)))) for _ in range(GENERATIONS)]
    return COST(int(3000 * rng.uniform(0.6, 1.4)), lengths)


if __name__ == "__main__":
    main()
