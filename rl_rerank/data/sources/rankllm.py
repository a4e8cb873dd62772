"""RankLLM's requests and results: `{query: {text, qid}, candidates: [{docid, score, doc: {title, text}}]}`.

https://github.com/castorini/rank_llm, src/rank_llm/data.py. The format has no judgments; RankLLM passes over a further
key `qrels` (docid -> grade), where ours stand.
"""

from dataclasses import dataclass
from typing import Any

from rl_rerank.data.records import Collection
from rl_rerank.data.sources import exchange
from rl_rerank.data.sources.exchange import Row

TEXT_KEYS = ("text", "segment", "contents", "content", "body", "passage")
"""Where RankLLM looks for a document's text, in this order."""
KEPT = ("qrels", "excluded", "split", "group", "answers")


@dataclass(frozen=True)
class RankLLM:
    """Reads a .json or .jsonl file, plain or with .gz; candidates stand in first-stage order."""

    path: str
    qrels: str = ""
    """A TREC file with judgments; empty: those in the file, if any."""
    split: str = ""
    """Put every query into this split; empty: as the file says, or by hash."""
    spaced: bool = False
    """Docids may hold white space, which becomes %20."""

    def read(self) -> Collection:
        """Read everything."""
        return exchange.collection(self.path, to_row, qrels=self.qrels, split=self.split, spaced=self.spaced)

    def state(self) -> str:
        """A digest of the files."""
        return exchange.state(self.path, self.qrels)


def to_row(item: Row, place: str) -> Row:
    """One of its objects as a row."""
    query = item.get("query")
    if not isinstance(query, dict) or not {"text", "qid"} <= query.keys():
        raise ValueError(f"{place}: query must be an object with text and qid; got {query!r:.80}")
    candidates = [_to_candidate(value, spot) for spot, value in exchange.objects(item, "candidates", place)]
    kept = {key: item[key] for key in KEPT if key in item}
    return {"qid": query["qid"], "query": query["text"], "candidates": candidates, **kept}


def from_row(row: Row) -> Row:
    """A row as one of its objects, in the order of `reranked` [(docid, score)] where the row has one.

    RankLLM wants a score for each candidate: where one has none, all are scored by rank.
    """
    candidates = [dict(candidate) for candidate in row["candidates"]]
    if "reranked" in row:
        by_docid = {str(candidate["docid"]): candidate for candidate in candidates}
        candidates = [{**by_docid[docid], "score": score} for docid, score in row["reranked"]]
    if any(candidate.get("score") is None for candidate in candidates):
        candidates = [{**c, "score": float(len(candidates) - i)} for i, c in enumerate(candidates)]
    kept = {key: row[key] for key in KEPT if key in row}
    return {
        "query": {"text": row["query"], "qid": row["qid"]},
        "candidates": [{"docid": c["docid"], "score": c["score"], "doc": _doc(c)} for c in candidates],
        **kept,
    }


def _to_candidate(value: Row, spot: str) -> Row:
    doc: Any = value.get("doc")
    key = next((key for key in TEXT_KEYS if isinstance(doc, dict) and key in doc), None)
    if key is None or "docid" not in value:
        raise ValueError(f"{spot} must have a docid, and a doc with one of {', '.join(TEXT_KEYS)}; got {value!r:.80}")
    further = {name: v for name, v in doc.items() if name != key and (name != "title" or not v)}
    return {
        "docid": value["docid"],
        "title": doc.get("title") or "",
        "text": doc[key],
        "score": value.get("score"),
        **({"text_key": key} if key != "text" else {}),
        **({"doc": further} if further else {}),
    }


def _doc(candidate: Row) -> Row:
    title = {"title": candidate["title"]} if candidate.get("title") else {}
    return {**title, candidate.get("text_key", "text"): candidate["text"], **candidate.get("doc", {})}
