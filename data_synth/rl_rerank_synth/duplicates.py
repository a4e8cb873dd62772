"""Drops queries, and documents of one list, that say the same as another."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rl_rerank.data.near_duplicates import clusters
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Candidate, RankingExample
from rl_rerank_synth.shorter import only


@dataclass(frozen=True)
class NearDocuments:
    """Of candidates that say nearly the same the one of the highest grade stays, of these the first.

    Nearly: the Jaccard similarity of their runs of five words is at least 0.8, found exactly.
    """

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples without the copies; counts `documents`."""
        for example in examples:
            cluster = clusters({c.docid: f"{c.title} {c.text}" for c in example.candidates})
            best: dict[str, Candidate] = {}
            for candidate in example.candidates:
                first = best.setdefault(cluster[candidate.docid], candidate)
                if example.qrels.get(candidate.docid, 0) > example.qrels.get(first.docid, 0):
                    best[cluster[candidate.docid]] = candidate
            kept = {candidate.docid for candidate in best.values()}
            context.counts["documents"] += len(example.candidates) - len(kept)
            yield only(example, kept)


@dataclass(frozen=True)
class NearQueries:
    """Of examples whose queries are the same but for case, punctuation and white space, or nearly so, the first stays.

    Looks at all examples at once, and holds them in memory.
    """

    near: bool = True
    """Also drop near duplicates: Jaccard similarity of runs of five words at least 0.8. false: the same ones only."""

    whole = True

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples without the copies; counts `exact` and `near`."""
        texts: dict[str, str] = {}
        first: dict[str, str] = {}
        kept: list[RankingExample] = []
        for example in examples:
            key = f"{normal(example.query)}\n{normal(example.instruction)}"
            if first.setdefault(key, example.qid) != example.qid:
                context.counts["exact"] += 1
                continue
            texts[example.qid] = key
            kept.append(example)
        cluster = clusters(texts) if self.near else {qid: qid for qid in texts}
        seen: set[str] = set()
        for example in kept:
            if cluster[example.qid] in seen:
                context.counts["near"] += 1
                continue
            seen.add(cluster[example.qid])
            yield example


def normal(text: str) -> str:
    """Its words in lower case, one space between them."""
    return " ".join(re.findall(r"\w+", text.lower()))
