# ruff: noqa: T201 (a script whose output is its table)
"""How fast `multiview` is: completions a second on one core, parsing included, against the obvious implementation.

    python benchmarks/rewards.py [COMPLETIONS] [SECONDS_OF_A_STEP]

Both read the same answers about 20 passages, a quarter of them malformed, and give the same values, which is checked.
The obvious one parses as the published code does, has pytrec_eval measure nDCG@10 and recall@10 of each completion, and
computes the overlap depth by depth as the package rbo does. They take turns, and the fastest of five turns counts. With
SECONDS_OF_A_STEP the share of such a GRPO step of 64 prompts x 8 completions is printed as well.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable

import pytrec_eval

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.types import Candidate, Completion, Prompt, RankingExample, Rollout
from rl_rerank_rewards.multiview import MultiView

PASSAGES, GROUP, TURNS, STEP = 20, 8, 5, 64 * 8
FORM = re.compile(r"<think>.*?</think>\s*<answer>(.*?)</answer>", re.DOTALL)


def queries(count: int) -> list[tuple[RankingExample, Prompt]]:
    """Queries of 20 passages with a gold order, three of them relevant."""
    found = []
    for number in range(count):
        docids = [f"q{number}d{i}" for i in range(PASSAGES)]
        order = random.Random(number).sample(docids, PASSAGES)
        candidates = tuple(Candidate(docid, "text") for docid in docids)
        qrels = {docid: int(docid in order[:3]) for docid in docids}
        example = RankingExample(f"q{number}", "query", candidates, qrels, order=tuple(order))
        found.append((example, Prompt(example.qid, tuple(docids), (), "listwise")))
    return found


def completion(rng: random.Random) -> str:
    """An answer behind some reasoning, malformed one time in four."""
    ids = rng.sample(range(1, PASSAGES + 1), PASSAGES)
    if rng.random() < 0.25:
        ids = ids[:-1]
    answer = " > ".join(f"[{i}]" for i in ids)
    return f"<think>{'They are about the query. ' * 40}</think>\n<answer>{answer}</answer>"


def ours(work: list[tuple[RankingExample, Prompt, str]]) -> list[float]:
    """As in training: the strict parser, then the reward."""
    paradigm, reward = Listwise(window=PASSAGES, reasoning=True), MultiView()
    values = []
    for example, prompt, text in work:
        answered = Completion(text)
        judgment = paradigm.parse(prompt, answered, strict=True)
        values.append(reward(example, Rollout(prompt, answered, judgment)))
    return values


def obvious(work: list[tuple[RankingExample, Prompt, str]]) -> list[float]:
    """One evaluator and one loop over depths for each completion."""
    return [_obvious(example, prompt, text) for example, prompt, text in work]


def _obvious(example: RankingExample, prompt: Prompt, text: str) -> float:
    found = FORM.search(text)
    if found is None:
        return -1.0
    ids = [int(i) for i in re.sub(r"[^0-9]", " ", found[1]).split()]
    if sorted(ids) != list(range(1, PASSAGES + 1)):
        return 0.0
    ranked = [prompt.docids[i - 1] for i in ids]
    evaluator = pytrec_eval.RelevanceEvaluator({"q": dict(example.qrels)}, {"ndcg_cut_10", "recall_10"})
    run = {"q": {docid: float(PASSAGES - rank) for rank, docid in enumerate(ranked)}}
    measured = evaluator.evaluate(run)["q"]
    assert example.order is not None
    shared = [len(set(ranked[:d]) & set(example.order[:d])) / d for d in range(1, PASSAGES + 1)]
    return measured["ndcg_cut_10"] + 0.2 * measured["recall_10"] + 0.1 * sum(shared) / PASSAGES


def seconds_of(function: Callable[[list], list[float]], work: list) -> float:
    """Processor seconds of one call."""
    begin = time.process_time()
    function(work)
    return time.process_time() - begin


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    rng = random.Random(1)
    work = [(e, p, completion(rng)) for e, p in queries(count // GROUP) for _ in range(GROUP)]
    apart = max(abs(a - b) for a, b in zip(ours(work), obvious(work), strict=True))
    times: dict[str, list[float]] = {"ours": [], "obvious": []}
    for _ in range(TURNS):
        times["ours"].append(seconds_of(ours, work))
        times["obvious"].append(seconds_of(obvious, work))
    best = {name: min(values) for name, values in times.items()}
    for name, seconds in best.items():
        print(f"{name:10}{len(work) / seconds:10.0f} completions a second a core")
    print(f"{best['obvious'] / best['ours']:.1f} times as fast; values differ by at most {apart:.1e}")
    if len(sys.argv) > 2:
        print(f"{100 * best['ours'] / len(work) * STEP / float(sys.argv[2]):.3f}% of a step of {STEP} completions")
    return 0 if apart < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
