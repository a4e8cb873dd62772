"""What the report shows of single queries: how each system ranks their documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl_rerank.types import RankingExample

MAX_QUERIES = 60
MAX_DOCUMENTS = 10
MAX_FURTHER_RELEVANT = 5
MAX_SNIPPET_CHARS = 200


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One document of a query."""

    docid: str
    title: str
    snippet: str
    grade: int | None
    """None: unjudged."""
    ranks: tuple[int | None, ...]
    """Its rank under each system, from 1; None: the system's run lacks it."""


@dataclass(frozen=True, slots=True)
class QueryCard:
    """One query."""

    qid: str
    query: str
    values: tuple[float | None, ...]
    """The measure under each system; None: another split."""
    change: float | None
    """System minus baseline, where the report compares two."""
    documents: tuple[DocumentRow, ...]
    num_absent: int
    """Relevant documents that are not among the candidates."""


def choose_queries(values: Mapping[str, float], change: Mapping[str, float]) -> list[str]:
    """At most `MAX_QUERIES` qids, largest gain first: all of them, or as many from either end.

    Args:
        values: qid -> the measure of the decisive system; it orders queries where `change` has nothing to say.
        change: qid -> system minus baseline.
    """
    ordered = sorted(values, key=lambda qid: (-change.get(qid, 0.0), -values[qid], qid))
    half = MAX_QUERIES // 2
    return ordered if len(ordered) <= MAX_QUERIES else ordered[:half] + ordered[-half:]


def query_card(
    example: RankingExample,
    orders: Sequence[Sequence[str]],
    values: Sequence[float | None],
    change: float | None,
    decisive: int,
) -> QueryCard:
    """The card of one query.

    Args:
        orders: docids best first, one order for each system.
        values: the measure under each system.
        decisive: the place of the system whose order decides which documents are shown.
    """
    ranks = [{docid: rank for rank, docid in enumerate(order, start=1)} for order in orders]
    placing = ranks[decisive]
    placed = sorted(example.docids, key=lambda docid: placing.get(docid, len(placing) + 1))
    relevant = [docid for docid in placed[MAX_DOCUMENTS:] if example.qrels.get(docid, 0) > 0]
    shown = placed[:MAX_DOCUMENTS] + relevant[:MAX_FURTHER_RELEVANT]
    candidates = {c.docid: c for c in example.candidates}
    return QueryCard(
        qid=example.qid,
        query=example.query,
        values=tuple(values),
        change=change,
        documents=tuple(
            DocumentRow(
                docid=docid,
                title=candidates[docid].title,
                snippet=_snippet(candidates[docid].text),
                grade=example.qrels.get(docid),
                ranks=tuple(places.get(docid) for places in ranks),
            )
            for docid in shown
        ),
        num_absent=sum(1 for docid, grade in example.qrels.items() if grade > 0 and docid not in candidates),
    )


def _snippet(text: str) -> str:
    # Cut before splitting: a document may be a book.
    words = " ".join(text[: 4 * MAX_SNIPPET_CHARS].split())
    return words if len(words) <= MAX_SNIPPET_CHARS else words[:MAX_SNIPPET_CHARS].rsplit(" ", 1)[0] + " ..."
