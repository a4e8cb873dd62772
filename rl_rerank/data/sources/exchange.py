"""What RankLLM's and Rankify's files have in common: a JSON array, or one JSON object a line.

Between the formats stands the row that `jsonl` reads, with keys that it does not: `answers` of a question, and of a
candidate `text_key` and `doc`, the name that RankLLM's document has for its text and whatever else is in it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rl_rerank.data.records import Collection
from rl_rerank.data.sources.jsonl import Reader
from rl_rerank.data.sources.reading import digest, records, split_name
from rl_rerank.io import trec

Row: TypeAlias = dict[str, Any]


def items(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, object) for every object of a .jsonl file or of a .json file's array."""
    if ".jsonl" in path.suffixes:
        yield from records(path)
        return
    try:
        values = json.loads("\n".join(line for _, line in trec.lines(path)))
    except json.JSONDecodeError as e:
        raise ValueError(f"{path}:{e.lineno}: expected a JSON array of objects: {e.msg}") from None
    if not isinstance(values, list):
        raise ValueError(f"{path}: expected a JSON array of objects; got {values!r:.80}")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise ValueError(f"{path}: item {number}: expected an object; got {value!r:.80}")
        yield f"{path}: item {number}", value


def content(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """The text of such a file, one object a line where its name says .jsonl."""
    if ".jsonl" in path.suffixes:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return json.dumps(list(rows), indent=2, ensure_ascii=False) + "\n"


def collection(path: str, to_row: Callable[[Row, str], Row], *, qrels: str, split: str, spaced: bool) -> Collection:
    """A file of another format as a collection.

    Args:
        to_row: makes a row of an object; its second argument is the object's place.
        qrels: a TREC file that takes the place of the rows' judgments; empty: theirs.
        split: train, dev or test for every query; empty: as the rows say.
    """
    reader = Reader(spaced=spaced)
    whole = split_name(split, "data.params.split")
    judged = trec.read_qrels(qrels, spaced=spaced) if qrels else None
    for place, item in items(Path(path)):
        row = to_row(item, place)
        if whole:
            row["split"] = whole
        if judged is not None:
            row["qrels"] = judged.get(str(row["qid"]), {})
        reader.add(place, row)
    return reader.collection()


def state(path: str, qrels: str) -> str:
    """A digest of the files."""
    return digest(Path(name) for name in (path, qrels) if name)


def objects(item: Row, key: str, place: str) -> Iterator[tuple[str, Row]]:
    """(place, object) for the list of objects under `key`."""
    values = item.get(key)
    if not isinstance(values, list):
        raise ValueError(f"{place}: {key} must be a list of objects; got {values!r:.80}")
    for number, value in enumerate(values, start=1):
        spot = f"{place}: {key} {number}"
        if not isinstance(value, dict):
            raise ValueError(f"{spot} must be an object; got {value!r:.80}")
        yield spot, value
