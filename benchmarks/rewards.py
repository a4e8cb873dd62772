# ruff: noqa: T201 (a script whose output is its table)
"""How fast `multiview` is: completions a second on one core, parsing included, against the obvious implementation.

    pip install --no-deps rbo==0.1.3
    python benchmarks/rewards.py [COMPLETIONS] [SECONDS_OF_A_STEP]

All read the same answers about 20 passages, a quarter of them malformed, and give the same values, which is checked.
Ours goes the way of training: the strict parser for each completion, as the engine gives it, then a group of 8
together. The obvious one does for each completion what ReasonRank's published reward does: a regular expression, a
pytrec_eval evaluator for nDCG@10 and recall@10, and the overlap by the package rbo. The lean one has a running overlap
of 15 lines in its place. pytrec_eval's time depends on how Python hashes texts in a process, so each of five processes
has its own seed. In each all take turns, the fastest of seven turns counts, and the table has the median of the five
with the lowest and the highest.

Reasoning is of two lengths: about 700 tokens, as ReasonRank's (626 to 928 on the average by data set), and 200. With
SECONDS_OF_A_STEP the share of such a GRPO step of 64 prompts x 8 completions is printed as well.
"""

from __future__ import annotations

import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import pytrec_eval
from rbo import RankingSimilarity  # pyright: ignore[reportMissingImports] (a peer, installed for this script)

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.reward.base import Term, evaluate
from rl_rerank.types import Candidate, Completion, Prompt, RankingExample, Rollout
from rl_rerank_rewards.multiview import MultiView

PASSAGES, GROUP, TURNS, SEEDS, STEP = 20, 8, 7, 5, 64 * 8
FORM = re.compile(r"<think>.*?</think>\s*<answer>(.*?)</answer>", re.DOTALL)
REASONING = {"700 tokens": 140, "200 tokens": 40}
"""How often a sentence of 26 characters, 5 tokens, is said."""

Work = list[tuple[RankingExample, Prompt, list[Completion]]]
"""Queries with a group of completions each."""


def queries(count: int, sentences: int) -> Work:
    """Queries of 20 passages with a gold order, three of them relevant."""
    rng, found = random.Random(1), []
    for number in range(count):
        docids = [f"q{number}d{i}" for i in range(PASSAGES)]
        order = random.Random(number).sample(docids, PASSAGES)
        candidates = tuple(Candidate(docid, "text") for docid in docids)
        qrels = {docid: int(docid in order[:3]) for docid in docids}
        example = RankingExample(f"q{number}", "query", candidates, qrels, order=tuple(order))
        prompt = Prompt(example.qid, tuple(docids), (), "listwise")
        found.append((example, prompt, [Completion(completion(rng, sentences)) for _ in range(GROUP)]))
    return found


def completion(rng: random.Random, sentences: int) -> str:
    """An answer behind some reasoning, malformed one time in four."""
    ids = rng.sample(range(1, PASSAGES + 1), PASSAGES)
    if rng.random() < 0.25:
        ids = ids[:-1]
    answer = " > ".join(f"[{i}]" for i in ids)
    return f"<think>{'They are about the query. ' * sentences}</think>\n<answer>{answer}</answer>"


def ours(work: Work) -> list[float]:
    """As in training."""
    paradigm, term = Listwise(window=PASSAGES, reasoning=True), Term("multiview", MultiView())
    values = []
    for example, prompt, answers in work:
        group = [Rollout(prompt, answer, paradigm.parse(prompt, answer, strict=True)) for answer in answers]
        values += [found.value for found in evaluate(term, example, group)]
    return values


def obvious(work: Work) -> list[float]:
    """Every completion from its text."""
    return [one(example, prompt, answer.text, published) for example, prompt, answers in work for answer in answers]


def lean(work: Work) -> list[float]:
    """The same with the running overlap."""
    return [one(example, prompt, answer.text, running) for example, prompt, answers in work for answer in answers]


def published(ranked: list[str], gold: list[str]) -> float:
    """Average overlap, as the package computes it with its own defaults."""
    return RankingSimilarity(ranked, gold).rbo()


def one(example: RankingExample, prompt: Prompt, text: str, overlap: Callable[[list[str], list[str]], float]) -> float:
    """What one completion is worth."""
    found = FORM.search(text)
    if found is None:
        return -1.0
    ids = [int(i) for i in re.sub(r"[^0-9]", " ", found[1]).split()]
    if sorted(ids) != list(range(1, PASSAGES + 1)):
        return 0.0
    ranked = [prompt.docids[i - 1] for i in ids]
    evaluator = pytrec_eval.RelevanceEvaluator({"q": dict(example.qrels)}, {"ndcg_cut.10", "recall.10"})
    measured = evaluator.evaluate({"q": {docid: float(PASSAGES - rank) for rank, docid in enumerate(ranked)}})["q"]
    assert example.order is not None
    return measured["ndcg_cut_10"] + 0.2 * measured["recall_10"] + 0.1 * overlap(ranked, list(example.order))


def running(ours: list[str], theirs: list[str]) -> float:
    """Running agreement, with what both have shown so far in two sets."""
    ours_seen, theirs_seen = {ours[0]}, {theirs[0]}
    agreement = overlap = float(ours[0] == theirs[0])
    for depth in range(1, len(ours)):
        mine, yours = ours[depth], theirs[depth]
        new = (mine in theirs_seen) + (yours in ours_seen) + (mine == yours)
        agreement = (agreement * depth + new) / (depth + 1)
        overlap = (overlap * depth + agreement) / (depth + 1)
        ours_seen.add(mine)
        theirs_seen.add(yours)
    return overlap


WAYS = (ours, obvious, lean)


def seconds_of(function: Callable[[Work], list[float]], work: Work) -> float:
    """Processor seconds of one call."""
    begin = time.process_time()
    function(work)
    return time.process_time() - begin


def measured(count: int, sentences: int) -> dict[str, float]:
    """Seconds a completion of each way, in this process; how far their values are apart."""
    work = queries(count // GROUP, sentences)
    apart = max(abs(a - b) for way in (obvious, lean) for a, b in zip(ours(work), way(work), strict=True))
    times: dict[str, list[float]] = {way.__name__: [] for way in WAYS}
    for _ in range(TURNS):
        for way in WAYS:
            times[way.__name__].append(seconds_of(way, work))
    return {name: min(values) / (len(work) * GROUP) for name, values in times.items()} | {"apart": apart}


def in_processes(count: int, sentences: int) -> list[dict[str, float]]:
    """`measured` in one process for each seed."""
    found = []
    for seed in range(SEEDS):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, __file__, str(count), "in-this-process", str(sentences)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    return found


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    if sys.argv[2:3] == ["in-this-process"]:
        print(json.dumps(measured(count, int(sys.argv[3]))))
        return 0
    apart = 0.0
    print(f"{'reasoning':12}{'ours':>10}{'obvious':>10}{'lean':>10}  completions a second a core")
    for length, sentences in REASONING.items():
        found = in_processes(count, sentences)
        apart = max(apart, *(row["apart"] for row in found))
        times = {way.__name__: statistics.median(row[way.__name__] for row in found) for way in WAYS}
        print(f"{length:12}" + "".join(f"{1 / seconds:10.0f}" for seconds in times.values()))
        for way in WAYS[1:]:
            ratios = sorted(row[way.__name__] / row["ours"] for row in found)
            said = f"{statistics.median(ratios):.1f} times as fast ({ratios[0]:.1f} to {ratios[-1]:.1f})"
            print(f"{'':12}{said} as the {way.__name__} one")
        step = STEP * times["ours"]
        share = f", {100 * step / float(sys.argv[2]):.3f}% of the step" if len(sys.argv) > 2 else ""
        print(f"{'':12}a step of {STEP}: {1000 * step:.1f} ms on one core, 2% of {step / 0.02:.1f} s{share}")
    print(f"values differ by at most {apart:.1e}")
    return 0 if apart < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
