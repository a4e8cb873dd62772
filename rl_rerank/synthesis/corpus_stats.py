"""Statistics of examples for the data card, counted in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rl_rerank.metrics import by_place, kendall_tau, ndcg
from rl_rerank.types import RankingExample

TENTHS = 10
DOUBLINGS = 14
"""Number of bins for lengths of up to 1, 2, 4, ... words; the last bin includes all longer ones."""


@dataclass
class Agreement:
    """Agreement of gold orders with judgments, over examples that have both and two grades."""

    examples: int = 0
    ndcg: float = 0.0
    """Sum of nDCG@10 of the order."""
    tau: float = 0.0
    """Sum of Kendall's tau over the pairs with different grades."""
    histogram: list[int] = field(default_factory=lambda: [0] * TENTHS)
    """Examples by tenth of nDCG@10."""

    def add(self, example: RankingExample) -> None:
        """Count an example."""
        if example.order is None:
            return
        grades = {docid: example.qrels.get(docid, 0) for docid in example.order}
        if len(set(grades.values())) < 2:
            return
        value = ndcg(example.order, grades, k=10)
        self.examples += 1
        self.ndcg += value
        self.tau += kendall_tau(by_place(example.order), grades)
        self.histogram[min(int(value * TENTHS), TENTHS - 1)] += 1


@dataclass
class Statistics:
    """Sums over examples."""

    candidates: Counter[int] = field(default_factory=Counter)
    """Number of candidates -> examples."""
    grades: Counter[str] = field(default_factory=Counter)
    """Grade of a candidate, or `unjudged` -> candidates."""
    query_words: list[int] = field(default_factory=lambda: [0] * DOUBLINGS)
    document_words: list[int] = field(default_factory=lambda: [0] * DOUBLINGS)
    answer_words: list[int] = field(default_factory=lambda: [0] * DOUBLINGS)
    teachers: Counter[str] = field(default_factory=Counter)
    """`teacher, paradigm` -> answers."""
    sources: Counter[str] = field(default_factory=Counter)
    agreement: Agreement = field(default_factory=Agreement)

    @staticmethod
    def of(examples: Iterable[RankingExample]) -> Statistics:
        """Compute the statistics of all examples."""
        found = Statistics()
        for example in examples:
            found._add(example)
        return found

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, with means instead of sums."""
        among = self.agreement.examples
        mean = {"ndcg": self.agreement.ndcg / among, "tau": self.agreement.tau / among} if among else {}
        return {
            "candidates": {str(n): count for n, count in sorted(self.candidates.items())},
            "grades": dict(sorted(self.grades.items())),
            "query_words": self.query_words,
            "document_words": self.document_words,
            "answer_words": self.answer_words,
            "teachers": self.teachers,
            "sources": self.sources,
            "agreement": {"examples": among, **mean, "histogram": self.agreement.histogram},
        }

    def _add(self, example: RankingExample) -> None:
        self.candidates[len(example.candidates)] += 1
        self.query_words[_bin(example.query)] += 1
        for candidate in example.candidates:
            self.grades[str(example.qrels.get(candidate.docid, "unjudged"))] += 1
            self.document_words[_bin(candidate.text)] += 1
        for output in example.teachers:
            self.teachers[f"{output.teacher}, {output.paradigm}"] += 1
            self.answer_words[_bin(output.text)] += 1
        self.sources[example.provenance.get("source", "")] += 1
        self.agreement.add(example)


def _bin(text: str) -> int:
    """Find the index of the first of 1, 2, 4, ... that is at least the number of words."""
    return min(max(len(text.split()) - 1, 0).bit_length(), DOUBLINGS - 1)
