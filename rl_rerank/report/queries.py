"""What the report shows of single queries: how each system ranks their documents."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl_rerank.evaluation import answers
from rl_rerank.types import RankingExample

MAX_QUERIES = 60
MAX_DOCUMENTS = 10
MAX_FURTHER_RELEVANT = 5
MAX_SNIPPET_CHARS = 200
MAX_ANSWERS = 3
"""Of one query and one system."""
MAX_TEXT_CHARS = 3000


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
class AnswerCard:
    """One prompt with its answer."""

    docids: tuple[str, ...]
    status: str
    issues: tuple[str, ...]
    messages: tuple[tuple[str, str], ...]
    """(role, text); empty where prompts were not kept."""
    text: str
    probabilities: Mapping[str, float]
    """Continuation -> its probability, where continuations were scored."""


@dataclass(frozen=True, slots=True)
class AnswerCards:
    """What one system was asked about one query, and what it answered."""

    label: str
    statuses: Mapping[str, int]
    shown: tuple[AnswerCard, ...]


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
    answers: tuple[AnswerCards, ...] = ()


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
    given: Sequence[AnswerCards] = (),
) -> QueryCard:
    """The card of one query.

    Args:
        orders: docids best first, one order for each system.
        values: the measure under each system.
        decisive: the place of the system whose order decides which documents are shown.
        given: what systems were asked, and answered.
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
        answers=tuple(given),
    )


def answer_cards(label: str, rows: Sequence[Mapping[str, Any]], pieces: list[str]) -> AnswerCards:
    """At most `MAX_ANSWERS` of a system's answers to one query: those that are not well formed, then the first ones.

    Args:
        rows: of `rollouts.jsonl`, in the order asked.
        pieces: the texts that rows' prompts name.
    """
    chosen = sorted(rows, key=lambda row: row["status"] == "ok")[:MAX_ANSWERS]
    return AnswerCards(
        label=label,
        statuses=dict(Counter(row["status"] for row in rows).most_common()),
        shown=tuple(
            AnswerCard(
                docids=tuple(row["docids"]),
                status=row["status"],
                issues=tuple(f"{issue['kind']}: {issue['place']}" for issue in row["issues"]),
                messages=tuple((role, _cut(text)) for role, text in answers.prompt(row, pieces)),
                text=_cut(row["text"]),
                probabilities={c: math.exp(value) for c, value in (row["continuations"] or {}).items()},
            )
            for row in chosen
        ),
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]} ..."


def _snippet(text: str) -> str:
    # Cut before splitting: a document may be a book.
    words = " ".join(text[: 4 * MAX_SNIPPET_CHARS].split())
    return words if len(words) <= MAX_SNIPPET_CHARS else words[:MAX_SNIPPET_CHARS].rsplit(" ", 1)[0] + " ..."
