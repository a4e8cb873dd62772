# ruff: noqa: T201 (a script whose output is its table)
"""Every paradigm with a real model on transformers and on vLLM: do they give the same answers?

    python benchmarks/engines.py [FOLDER] [--queries 20] [--model smollm2] [--journal FILE]

FOLDER is a collection's; without one the embedded data are used. Candidates are the first stage's top 10, passages are
cut to 64 tokens, and the model is in float32. Compared are the prompts that both engines were asked: a strategy that
goes on from its answers may ask others behind a first difference. Behind a journal no prompt is answered twice.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rl_rerank import registry
from rl_rerank.config import DataConfig, EngineConfig, ModelConfig
from rl_rerank.data import prepare
from rl_rerank.engines.build import build_engine
from rl_rerank.engines.journal import Journal
from rl_rerank.engines.journaled import Journaled
from rl_rerank.engines.local.checkpoint import base_model_dir
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.metrics import ndcg
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Completion, Prompt, Ranking, RankingExample, Rollout

DEPTH, PASSAGE_TOKENS = 10, 64
THOUGHT: dict[str, Any] = {"reasoning": True, "think_tokens": 16}
ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pointwise", {}),
    ("pointwise_graded", {}),
    ("pointwise_graded", {"rule": "weighted"}),
    ("pointwise_graded", {"rule": "weighted", **THOUGHT}),
    ("pointwise_graded", {"rule": "expected"}),
    ("groupwise", {"size": 5}),
    ("groupwise", {"size": 5, "constrained": True}),
    ("groupwise", {"size": 5, **THOUGHT}),
    ("listwise", {}),
    ("listwise", {"constrained": True}),
    ("listwise", {"window": 5}),
    ("listwise", THOUGHT),
    ("first_token", {}),
    ("setwise", {"k": 1}),
    ("setwise", {"k": 1, "mode": "scoring"}),
    ("setwise", {"k": 1, "labels": "numbers", **THOUGHT}),
    ("pairwise", {"method": "sliding", "k": 1}),
    (
        "pipeline",
        {
            "stages": [
                {"paradigm": "pointwise"},
                {"paradigm": "pairwise", "depth": 4, "params": {"mode": "scoring", "aggregation": "sym_sum"}},
            ]
        },
    ),
)


@dataclass(frozen=True)
class Run:
    """What one engine made of one row."""

    rankings: list[Ranking]
    completions: dict[Prompt, Completion]
    malformed: int

    @property
    def share(self) -> str:
        """Malformed answers among all."""
        return f"{self.malformed / max(1, sum(r.num_prompts for r in self.rankings)):.0%}"


def title(name: str, params: Mapping[str, Any]) -> str:
    """As on a command line."""
    if name == "pipeline":
        steps = [f"{stage['paradigm']} {stage.get('depth', DEPTH)}" for stage in params["stages"]]
        return f"pipeline {', '.join(steps)}"
    return " ".join([name, *(f"{key}={value}" for key, value in params.items())])


def run(engine: Journaled, examples: Sequence[RankingExample]) -> dict[str, Run]:
    """Every row, by its title."""
    found = {}
    for name, params in ROWS:
        paradigm: Any = registry.build("paradigm", name, params)
        rankings, rollouts = rerank(examples, paradigm, engine)
        malformed = sum(ranking.num_malformed for ranking in rankings)
        found[title(name, params)] = Run(rankings, completions(rollouts), malformed)
        print(f"{engine.identity['engine']}: {title(name, params)}, {len(rollouts)} prompts", flush=True)
    return found


def completions(rollouts: Sequence[Rollout]) -> dict[Prompt, Completion]:
    """The first answer to each prompt."""
    found: dict[Prompt, Completion] = {}
    for rollout in rollouts:
        found.setdefault(rollout.prompt, rollout.completion)
    return found


def compare(hf: HFEngine, ours: Run, theirs: Run) -> tuple[str, str, str]:
    """Prompts that both were asked, scores or answers that agree, and the largest difference."""
    both = [(p, ours.completions[p], theirs.completions[p]) for p in ours.completions if p in theirs.completions]
    count = f"{len(both)} of {max(len(ours.completions), len(theirs.completions))}"
    scored = [(a.continuations, b.continuations) for _, a, b in both if a.continuations and b.continuations]
    written = [(p, a, b) for p, a, b in both if a.continuations is None]
    cells, largest = [], []
    if scored:
        gap = max(abs(a[text] - b[text]) for a, b in scored for text in a)
        cells.append(f"{len(scored)} scored")
        largest.append(f"score {gap:.1e}")
    if written:
        different = [(p, a, b) for p, a, b in written if a.token_ids != b.token_ids]
        same = len(written) - len(different)
        cells.append(f"{same} of {len(written)} texts ({same / len(written):.1%})")
        if different:
            largest.append(f"logit gap {max(gap_of(hf, *one) for one in different):.1e}")
    return count, ", ".join(cells), ", ".join(largest)


def gap_of(hf: HFEngine, prompt: Prompt, one: Completion, other: Completion) -> float:
    """How far apart the logits of the two tokens are at which the answers part."""
    pairs = list(zip(one.token_ids, other.token_ids, strict=False))
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if place is None:
        raise ValueError(f"qid {prompt.qid!r}: one answer is the beginning of the other")
    ids = [*hf.render(prompt), *one.token_ids[:place]]
    with torch.no_grad():
        logits = hf.model(torch.tensor([ids], device=hf.model.device)).logits[0, -1].float()
    a, b = pairs[place]
    return abs(logits[a] - logits[b]).item()


def order(ours: Run, theirs: Run) -> str:
    """Queries with the same order, and the largest gap between two documents whose order differs."""
    same, largest = 0, 0.0
    for a, b in zip(ours.rankings, theirs.rankings, strict=True):
        same += a.docids == b.docids
        if a.raw_scores is None:
            continue
        place = {docid: i for i, docid in enumerate(b.docids)}
        for i, first in enumerate(a.docids):
            for second in a.docids[i + 1 :]:
                if place[first] > place[second]:
                    largest = max(largest, a.raw_scores[first] - a.raw_scores[second])
    text = f"{same} of {len(ours.rankings)}"
    return text if largest == 0 else f"{text}, gap {largest:.1e}"


def quality(found: Run, examples: Sequence[RankingExample], qrels: Mapping[str, Mapping[str, int]]) -> str:
    """Mean nDCG@10."""
    values = [ndcg(r.docids, qrels[e.qid], k=10) for r, e in zip(found.rankings, examples, strict=True)]
    return f"{statistics.mean(values):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="a collection's; pydocs without one")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--journal", type=Path, help="keeps the answers, so that a run that was stopped goes on")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    source = "collection" if given.folder else "pydocs"
    data = DataConfig(source=source, path=given.folder, depth=DEPTH, ensure_relevant=False)
    model = ModelConfig(path=given.model, max_passage_tokens=PASSAGE_TOKENS)
    path = base_model_dir(model)
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(data, Path(folder) / "data")
        # Nothing is trained here, so every split will do.
        examples = [example for split in ("test", "dev", "train") for example in store.examples(split)][: given.queries]
        qrels = {qid: judged for split in ("test", "dev", "train") for qid, judged in store.qrels(split).items()}
        hf, vllm = (build_engine(EngineConfig(kind=kind), model, path) for kind in ("hf", "vllm"))
        assert isinstance(hf, HFEngine)
        journal = Journal(given.journal or Path(folder) / "journal.sqlite")
        ours, theirs = (run(Journaled(e, journal, {"engine": type(e).__name__}), examples) for e in (hf, vllm))
        vllm.close()
    print(
        "\n| paradigm | prompts sent to both | the same | largest difference | same order | malformed "
        "| nDCG@10 hf | nDCG@10 vLLM |\n| --- | ---: | --- | --- | --- | ---: | ---: | ---: |"
    )
    for name, mine in ours.items():
        cells = [f"`{name}`", *compare(hf, mine, theirs[name]), order(mine, theirs[name]), mine.share]
        cells += [quality(mine, examples, qrels), quality(theirs[name], examples, qrels)]
        print(f"| {' | '.join(cells)} |", flush=True)
    first_stage = statistics.mean(ndcg(e.docids, qrels[e.qid], k=10) for e in examples)
    print(f"\n{len(examples)} queries, depth {DEPTH}; first stage nDCG@10 {first_stage:.3f}")


if __name__ == "__main__":
    main()
