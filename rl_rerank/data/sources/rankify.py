"""Rankify's files: `{question, answers, query_id, ctxs: [{id, title, text, score, has_answer}]}`, `reranked_ctxs` too.

https://github.com/DataScienceUIBK/Rankify, rankify/dataset/dataset.py. `has_answer` is read as grade 1 or 0, null as
unjudged. What a context has no place for stands beside the contexts, where Rankify passes it over: other grades in
`qrels` (docid -> grade), the rest of RankLLM's documents in `docs`. Rankify ends every question with a question mark
when it reads one; we read and write questions as they are.
"""

from dataclasses import dataclass
from typing import Any

from rl_rerank.data.records import Collection
from rl_rerank.data.sources import exchange
from rl_rerank.data.sources.exchange import Row

KEPT = ("answers", "excluded", "split", "group")
DOC = ("text_key", "doc")


@dataclass(frozen=True)
class Rankify:
    """Reads a .json or .jsonl file, plain or with .gz, that was saved with its texts.

    A question without a `query_id` goes by its number, from 1.
    """

    path: str
    qrels: str = ""
    """A TREC file with judgments; empty: those in the file, if any."""
    split: str = ""
    """Put every query into this split; empty: as the file says, or by hash."""
    spaced: bool = False
    """Docids may hold white space, which becomes %20."""

    def read(self) -> Collection:
        """Read everything."""
        return exchange.collection(self.path, Numbered(), qrels=self.qrels, split=self.split, spaced=self.spaced)

    def state(self) -> str:
        """A digest of the files."""
        return exchange.state(self.path, self.qrels)


class Numbered:
    """Makes rows of its objects, counting them for those that have no id."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, item: Row, place: str) -> Row:
        self.count += 1
        if not isinstance(item.get("question"), str):
            raise ValueError(f"{place}: question must be a string; got {item.get('question')!r:.80}")
        contexts = list(exchange.objects(item, "ctxs", place))
        docs = item.get("docs", {})
        candidates = [{**_to_candidate(value, spot), **docs.get(str(value["id"]), {})} for spot, value in contexts]
        found = {str(c["id"]): int(c["has_answer"]) for _, c in contexts if c.get("has_answer") is not None}
        qid = item.get("query_id")
        row = {"qid": self.count if qid is None else qid, "query": item["question"], "candidates": candidates}
        return {**row, "qrels": item.get("qrels", found), **{key: item[key] for key in KEPT if item.get(key)}}


def from_row(row: Row) -> Row:
    """A row as one of its objects; the order of `reranked` [(docid, score)], where the row has one, as its own list."""
    qrels: dict[str, int] = row.get("qrels") or {}
    contexts = [_context(candidate, qrels) for candidate in row["candidates"]]
    item: Row = {
        "question": row["query"],
        "answers": row.get("answers", []),
        "query_id": row["qid"],
        "ctxs": contexts,
        **{key: row[key] for key in KEPT if key in row and key != "answers"},
    }
    if any(docid not in {str(c["id"]) for c in contexts} or grade not in (0, 1) for docid, grade in qrels.items()):
        item["qrels"] = qrels
    further = {str(c["docid"]): {key: c[key] for key in DOC if key in c} for c in row["candidates"]}
    if docs := {docid: doc for docid, doc in further.items() if doc}:
        item["docs"] = docs
    if "reranked" in row:
        by_docid = {str(context["id"]): context for context in contexts}
        item["reranked_ctxs"] = [{**by_docid[docid], "score": score} for docid, score in row["reranked"]]
    return item


def _to_candidate(value: Row, spot: str) -> Row:
    if "id" not in value or not isinstance(value.get("text"), str):
        raise ValueError(f"{spot} must have an id and a text (save_text=True when Rankify saves); got {value!r:.80}")
    return {"docid": value["id"], "title": value.get("title") or "", "text": value["text"], "score": value.get("score")}


def _context(candidate: Row, qrels: dict[str, int]) -> dict[str, Any]:
    grade = qrels.get(str(candidate["docid"]))
    return {
        "score": candidate.get("score"),
        "has_answer": None if grade is None else grade > 0,
        "id": candidate["docid"],
        "text": candidate["text"],
        "title": candidate.get("title") or "",
    }
