"""Windows over a candidate list."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from rl_rerank.paradigms.base import Strategy
from rl_rerank.paradigms.ordering import Counts, rank_by_order
from rl_rerank.types import Prompt, RankingExample


def windows(n: int, window: int, stride: int) -> list[tuple[int, int]]:
    """[start, end) of the sliding windows over `n` documents, from the back; the last one starts at 0.

    One window where all fit; none for fewer than two documents.
    """
    if n < 2:
        return []
    spans = []
    end = n
    while True:
        start = max(end - window, 0)
        spans.append((start, end))
        if start == 0:
            return spans
        end -= stride


def settle(
    example: RankingExample,
    prompt: Callable[[RankingExample, Sequence[str]], Prompt],
    window: int,
    stride: int | None,
) -> Strategy:
    """A pass over all documents settles the first window - stride ranks, the next over the rest as many, to the end.

    N = 100, window 20 and stride 10 take 9 + 8 + ... + 1 = 45 prompts in 9 passes. Source: Liu et al. 2024,
    https://arxiv.org/abs/2412.14574; that later passes go over the rest alone is from an account of it, not read there.
    """
    step = stride or window // 2
    settled: list[str] = []
    rest, counts = list(example.docids), Counts()
    while rest:
        ranking = yield from slide(
            replace(example, candidates=tuple(map(example.candidate, rest))), prompt, window, step
        )
        counts.num_prompts += ranking.num_prompts
        counts.num_malformed += ranking.num_malformed
        counts.num_fallbacks += ranking.num_fallbacks
        best = len(rest) if len(rest) <= window else window - step
        settled += ranking.docids[:best]
        rest = list(ranking.docids[best:])
    return rank_by_order(example.qid, settled, **vars(counts))


def slide(
    example: RankingExample,
    prompt: Callable[[RankingExample, Sequence[str]], Prompt],
    window: int,
    stride: int | None,
    passes: int = 1,
) -> Strategy:
    """Order the documents of one window after the other, each with its answer's scores; None: half a window a step."""
    docids = list(example.docids)
    counts = Counts()
    for start, end in windows(len(docids), window, stride or window // 2) * passes:
        shown = docids[start:end]
        judgments = yield [prompt(example, shown)]
        counts.add(judgments)
        scores = judgments[0].scores
        docids[start:end] = sorted(shown, key=lambda docid, scores=scores: -scores.get(docid, 0.0))
    return rank_by_order(example.qid, docids, **vars(counts))


def check_windows(paradigm: str, window: int, stride: int | None) -> None:
    """Refuse windows that order nothing, or that leave documents out."""
    if window < 2:
        raise ValueError(
            f"{paradigm}: window must be at least 2, because one document has only one order; got {window}"
        )
    if stride is not None and not 1 <= stride <= window:
        raise ValueError(f"{paradigm}: stride must be from 1 to window={window}; got {stride}")


def training_window(example: RankingExample, size: int, rng: random.Random) -> list[str]:
    """At most `size` candidates in random order that include two different grades; empty where that cannot be."""
    docids = list(example.docids)
    rng.shuffle(docids)
    grades = {docid: example.gain(docid) for docid in docids}
    chosen = docids[:size]
    if len({grades[d] for d in chosen}) < 2:
        other = next((d for d in docids[size:] if grades[d] != grades[chosen[0]]), None) if chosen else None
        if other is None:
            return []
        chosen[rng.randrange(len(chosen))] = other
    return chosen
