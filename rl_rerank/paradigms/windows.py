"""Windows over a candidate list."""

from __future__ import annotations

import random

from rl_rerank.types import RankingExample


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


def training_window(example: RankingExample, size: int, rng: random.Random) -> list[str]:
    """At most `size` candidates in random order that include two different grades; empty where that cannot be."""
    docids = list(example.docids)
    rng.shuffle(docids)
    grades = {docid: max(example.qrels.get(docid, 0), 0) for docid in docids}  # below 0 gains no more than 0
    chosen = docids[:size]
    if len({grades[d] for d in chosen}) < 2:
        other = next((d for d in docids[size:] if grades[d] != grades[chosen[0]]), None) if chosen else None
        if other is None:
            return []
        chosen[rng.randrange(len(chosen))] = other
    return chosen
