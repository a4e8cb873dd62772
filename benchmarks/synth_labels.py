# ruff: noqa: T201 (a script whose output is its table)
"""How good the labels of a noisy teacher are, and what makes them better: writes the table in docs/synthesis.md.

    python benchmarks/synth_labels.py [--seeds 40] [--documents 100]

The true order of the documents is known; the teacher is the oracle, which sees each document's place with a Gaussian
error, drawn anew for every prompt and sample. tau is Kendall's against the true order, nDCG@10 has the ten best
documents as the relevant ones. The documents are given in random order, and every step shows them in another.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rl_rerank import registry
from rl_rerank.config import Config, PluginConfig
from rl_rerank.metrics import by_place, kendall_tau, ndcg
from rl_rerank.stages.synth.spec import SynthBudget, SynthStage
from rl_rerank.synthesis.metered import Meter
from rl_rerank.synthesis.resources import Resources
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Candidate, RankingExample

LISTWISE = ("rank", {"paradigm": "listwise"})
POINTWISE = ("rank", {"paradigm": "pointwise_graded"})
Steps = Mapping[str, tuple[str, Mapping[str, Any]]]
WAYS: dict[str, Steps] = {
    "listwise, one pass": {"l": LISTWISE},
    "listwise, consensus of 3": {"l": ("rank", {"paradigm": "listwise", "samples": 3, "temperature": 1.0})},
    "listwise, consensus of 10": {"l": ("rank", {"paradigm": "listwise", "samples": 10, "temperature": 1.0})},
    "listwise, passes until all is settled": {"l": ("rank", {"paradigm": "settled"})},
    "pointwise 0..10": {"p": POINTWISE},
    "pointwise, consensus of 3": {"p": ("rank", {"paradigm": "pointwise_graded", "samples": 3, "temperature": 1.0})},
    "pointwise, consensus of 10": {"p": ("rank", {"paradigm": "pointwise_graded", "samples": 10, "temperature": 1.0})},
    "whole list at once": {"w": ("rank", {"paradigm": "whole"})},
    "whole list and pointwise, ranks fused": {
        "w": ("rank", {"paradigm": "whole"}),
        "p": POINTWISE,
        "f": ("rank_fusion", {"first": "p", "second": "w"}),
    },
}
PARADIGMS = {
    "listwise": PluginConfig(params={"window": 20, "stride": 10}),
    "settled": PluginConfig(name="listwise", params={"window": 20, "stride": 10, "settle": True}),
    "whole": PluginConfig(name="listwise", params={"window": None}),
}


@dataclass(frozen=True)
class Quality:
    """Of the labels of some lists."""

    tau: float
    ndcg: float
    prompts: float
    """A list."""


def lists(num_documents: int, seeds: int) -> list[RankingExample]:
    """Lists in random order; the grade of a document is its place in the true order, from below."""
    made = []
    for seed in range(seeds):
        docids = [f"d{n}" for n in range(num_documents)]
        grades = {docid: num_documents - 1 - place for place, docid in enumerate(docids)}
        random.Random(seed).shuffle(docids)
        made.append(RankingExample(f"q{seed}", "query", tuple(Candidate(d, "text") for d in docids), grades))
    return made


def labelled(examples: Sequence[RankingExample], steps: Steps, noise: float) -> tuple[list[RankingExample], int]:
    """The lists with a way's labels, and the prompts that it took."""
    config, stage = Config(paradigms=PARADIGMS), SynthStage(kind="synth", noise=noise)
    resources, prompts = Resources(config, stage, Meter(SynthBudget(), {})), 0
    made = list(examples)
    for name, (plugin, params) in steps.items():
        context = StepContext(name, config, stage, resources)
        made = list(registry.build("step", plugin, params)(made, context))
        prompts += context.counts["prompts"] * params.get("samples", 1)
    return made, prompts


def quality(examples: Sequence[RankingExample], prompts: int = 0) -> Quality:
    """Against the truth, which the examples have as judgments."""
    orders = [example.order or () for example in examples]
    truth = [example.qrels for example in examples]
    return Quality(
        statistics.fmean(kendall_tau(by_place(o), t) for o, t in zip(orders, truth, strict=True)),
        statistics.fmean(ndcg(o, best(t), k=10) for o, t in zip(orders, truth, strict=True)),
        prompts / len(examples),
    )


def best(grades: Mapping[str, int]) -> dict[str, int]:
    """The ten best documents as the relevant ones."""
    return {docid: int(grade >= len(grades) - 10) for docid, grade in grades.items()}


def consistent(examples: Sequence[RankingExample], alpha: float) -> list[RankingExample]:
    """Those that the self-consistency filter keeps, which sees the ten best documents as the judged ones."""
    config, stage = Config(), SynthStage(kind="synth")
    context = StepContext("consistency", config, stage, Resources(config, stage, Meter(SynthBudget(), {})))
    step = registry.build("step", "consistency", {"min_ndcg": alpha})
    kept = {e.qid for e in step([replace(e, qrels=best(e.qrels)) for e in examples], context)}
    return [example for example in examples if example.qid in kept]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--documents", type=int, default=100)
    given = parser.parse_args()
    examples = lists(given.documents, given.seeds)
    print("| labels | noise | prompts | tau | nDCG@10 |\n| --- | ---: | ---: | ---: | ---: |")
    for noise in (0.0, 15.0, 30.0):
        for name, steps in WAYS.items():
            made, prompts = labelled(examples, steps, noise)
            found = quality(made, prompts)
            print(f"| {name} | {noise:g} | {found.prompts:g} | {found.tau:.3f} | {found.ndcg:.3f} |", flush=True)
    print(mixed(examples, 30.0))


def mixed(examples: Sequence[RankingExample], most: float) -> str:
    """Two rows of the table: a teacher that is better at some lists than at others, and what is consistent of it."""
    noise = [most * place / (len(examples) - 1) for place in range(len(examples))]
    made = [labelled([e], WAYS["whole list at once"], n)[0][0] for e, n in zip(examples, noise, strict=True)]
    middle = statistics.median(ndcg(e.order or (), best(e.qrels), k=10) for e in made)
    kept = consistent(made, middle)
    every, some = quality(made), quality(kept)
    return (
        f"| whole list at once | 0 to {most:g}, by list | 1 | {every.tau:.3f} | {every.ndcg:.3f} |\n"
        f"| the {len(kept)} of these with nDCG@10 of at least {middle:.2f} | | | {some.tau:.3f} | {some.ndcg:.3f} |"
    )


if __name__ == "__main__":
    main()
