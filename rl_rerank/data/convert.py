"""`rl-rerank convert`: ranking examples from one file format to another, and a run's order with them."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from rl_rerank.config import ConvertFiles
from rl_rerank.data.sources import exchange, rankify, rankllm
from rl_rerank.data.sources.exchange import Row
from rl_rerank.data.sources.jsonl import Reader
from rl_rerank.data.store import Store
from rl_rerank.io import trec
from rl_rerank.io.files import write_text

logger = logging.getLogger(__name__)


def convert(files: ConvertFiles) -> int:
    """Write `files.output`; returns the number of queries in it.

    Raises:
        ValueError: for an input that breaks its format, or a run that ranks documents which are no candidates.
    """
    rows = [(place, dict(row)) for place, row in _rows(Path(files.input), files.split)]
    reader = Reader(spaced=True)
    for place, row in rows:
        reader.add(place, row)
    if files.run is not None:
        run = trec.read_run(files.run, spaced=True)
        absent = sum(str(row["qid"]) not in run for _, row in rows)
        if absent:
            logger.warning("%s lacks %d of %d queries, which are left out", files.run, absent, len(rows))
        rows = [(place, row) for place, row in rows if str(row["qid"]) in run]
        for place, row in rows:
            row["reranked"] = _reranked(row, run[str(row["qid"])], f"{files.run}, for {place}")
    make = {"rankllm": rankllm.from_row, "rankify": rankify.from_row, "jsonl": _own}[files.format]
    write_text(Path(files.output), exchange.content(Path(files.output), (make(row) for _, row in rows)))
    return len(rows)


def _rows(path: Path, split: str) -> Iterator[tuple[str, Row]]:
    """The rows of a data store's folder, or of a file in any of the formats, told apart by their keys."""
    if path.is_dir():
        yield from _stored(path, split)
        return
    to_rankify_row = rankify.Numbered()
    for place, item in exchange.items(path):
        make: Callable[[Row, str], Row]
        if "ctxs" in item:
            make = to_rankify_row
        elif isinstance(item.get("query"), dict):
            make = rankllm.to_row
        else:
            make = _as_it_is
        yield place, make(item, place)


def _stored(folder: Path, split: str) -> Iterator[tuple[str, Row]]:
    store = Store(folder)
    for example in store.examples(split):
        candidates = [
            {"docid": c.docid, "title": c.title, "text": c.text, "score": c.score} for c in example.candidates
        ]
        row: Row = {"qid": example.qid, "query": example.query, "candidates": candidates, "qrels": dict(example.qrels)}
        known = {"group": example.group} if example.group else {}
        yield f"qid {example.qid!r}", {**row, "split": split, **known}


def _as_it_is(row: Row, place: str) -> Row:
    return row


def _own(row: Row) -> Row:
    """A run's order becomes the order of the candidates."""
    if "reranked" not in row:
        return row
    by_docid = {str(candidate["docid"]): candidate for candidate in row["candidates"]}
    candidates = [{**by_docid[docid], "score": score} for docid, score in row["reranked"]]
    return {**{key: value for key, value in row.items() if key != "reranked"}, "candidates": candidates}


def _reranked(row: Row, scores: dict[str, float], place: str) -> list[tuple[str, float]]:
    """(docid as the row has it, score), best first."""
    written = {trec.one_word(str(candidate["docid"])): str(candidate["docid"]) for candidate in row["candidates"]}
    if unknown := [docid for docid in scores if docid not in written]:
        raise ValueError(f"{place}: docid {unknown[0]!r} is ranked and is no candidate")
    return [(written[docid], scores[docid]) for docid in trec.trec_order(scores)]
