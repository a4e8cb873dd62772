"""What the data hold for training and testing: a row for each split, from the store alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rl_rerank.data.store import Store
from rl_rerank.metrics.relevance import ndcg

K = 10
UNJUDGED = "unjudged"
TITLES = (
    "split",
    "queries",
    "usable",
    "no candidate",
    "candidates",
    "recall",
    f"oracle nDCG@{K}",
    "grades",
)


@dataclass(frozen=True, slots=True)
class SplitOverview:
    """The queries of one split."""

    split: str
    queries: int
    """Queries with candidates."""
    usable: int
    """Queries whose candidates differ in grade, so that an order of them can be right or wrong."""
    unanswered: int
    """Judged held-out queries without a candidate, which count 0 in every mean."""
    candidates: float
    """Mean number of candidates."""
    recall: float | None
    """Share of a query's relevant documents that are candidates, mean; None if nothing is judged relevant."""
    oracle: float | None
    """nDCG@10 of the best order of the candidates, mean over the same queries."""
    grades: Mapping[str, int]
    """Grade, or `unjudged` -> number of candidates."""

    def cells(self, *, has_means: bool = True) -> tuple[str, ...]:
        """Format the values under `TITLES`, recall and oracle only with `has_means`."""
        means = (self.recall, self.oracle) if has_means else (None, None)
        shares = ("-" if value is None else f"{value:.3f}" for value in means)
        grades = ", ".join(f"{grade}: {count}" for grade, count in self.grades.items())
        counts = (self.queries, self.usable, self.unanswered)
        return (self.split, *map(str, counts), f"{self.candidates:.1f}", *shares, grades or "-")


def overview(store: Store) -> list[SplitOverview]:
    """Count what every split has. No text is read."""
    return [_split(store, split) for split in store.splits]


def table(splits: Sequence[SplitOverview]) -> list[str]:
    """Format rows under a head, in columns."""
    rows = [TITLES, *(split.cells() for split in splits)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TITLES))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def doubts(splits: Sequence[SplitOverview]) -> list[str]:
    """Say in sentences what makes a split useless or its measures low, whatever ranks it."""
    found: list[str] = []
    for one in splits:
        if not one.usable:
            found.append(
                f"{one.split}: the candidates of none of its {one.queries} queries differ in grade, so nothing can be "
                "learned or measured from it"
            )
        elif one.recall is not None and one.recall < 0.5:
            found.append(
                f"{one.split}: {1 - one.recall:.0%} of a query's relevant documents are no candidates, so no order "
                f"gives more than nDCG@{K} {one.oracle:.3f}; raise data.depth, or choose another data.first_stage"
            )
    return found


def _split(store: Store, split: str) -> SplitOverview:
    grades: Counter[int | None] = Counter()
    queries = usable = 0
    candidates: list[int] = []
    recalls: list[float] = []
    oracles: list[float] = []
    for example in store.examples(split).outlines():
        found = [example.qrels.get(candidate.docid) for candidate in example.candidates]
        grades.update(found)
        queries += 1
        usable += len({grade or 0 for grade in found}) > 1
        candidates.append(len(found))
        if relevant := {docid for docid, grade in example.qrels.items() if grade >= 1}:
            docids = [candidate.docid for candidate in example.candidates]
            recalls.append(len(relevant.intersection(docids)) / len(relevant))
            best = sorted(docids, key=lambda docid: -example.qrels.get(docid, 0))
            oracles.append(ndcg(best, example.qrels, k=K))
    unanswered = store.unanswered(split)
    # These have no example, and count in every mean of an evaluation.
    lost = sum(any(grade >= 1 for grade in judged.values()) for judged in unanswered.values())
    recalls, oracles = recalls + [0.0] * lost, oracles + [0.0] * lost
    known = sorted(grade for grade in grades if grade is not None)
    counted = {str(grade): grades[grade] for grade in known} | ({UNJUDGED: grades[None]} if grades[None] else {})
    return SplitOverview(
        split,
        queries,
        usable,
        len(unanswered),
        fmean(candidates),
        fmean(recalls) if recalls else None,
        fmean(oracles) if oracles else None,
        counted,
    )
