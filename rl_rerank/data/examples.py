"""Ranking examples in a file, one a line with the texts in place: everything that an example holds.

`data=jsonl` reads such a file too, and takes from it what a collection has.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rl_rerank.data.indexed import IndexedExamples
from rl_rerank.types import Candidate, RankingExample, TeacherOutput


def to_json(example: RankingExample) -> dict[str, Any]:
    """The example as JSON values; what it does not have is left out."""
    row: dict[str, Any] = {"qid": example.qid, "query": example.query, "split": example.split}
    row |= {"candidates": [_candidate(c) for c in example.candidates], "qrels": dict(example.qrels)}
    known: dict[str, Any] = {
        "instruction": example.instruction or None,
        "order": list(example.order) if example.order is not None else None,
        "scores": dict(example.scores) if example.scores is not None else None,
        "teachers": [_teacher(output) for output in example.teachers] or None,
        "provenance": dict(example.provenance) or None,
        "group": example.group or None,
    }
    return row | {name: value for name, value in known.items() if value is not None}


def from_json(row: dict[str, Any]) -> RankingExample:
    """What `to_json` was given."""
    return RankingExample(
        qid=row["qid"],
        query=row["query"],
        candidates=tuple(
            Candidate(
                value["docid"],
                value["text"],
                value.get("title", ""),
                tuple(value.get("images", ())),
                value.get("rank"),
                value.get("score"),
                value.get("features", {}),
            )
            for value in row["candidates"]
        ),
        qrels=row["qrels"],
        instruction=row.get("instruction", ""),
        split=row["split"],
        order=tuple(row["order"]) if "order" in row else None,
        scores=row.get("scores"),
        teachers=tuple(
            TeacherOutput(value["teacher"], value["paradigm"], tuple(value["docids"]), value["text"], value["prompt"])
            for value in row.get("teachers", ())
        ),
        provenance=row.get("provenance", {}),
        group=row.get("group", ""),
    )


def line(example: RankingExample) -> str:
    """A line of the file."""
    return json.dumps(to_json(example), ensure_ascii=False) + "\n"


def read(path: Path) -> Iterator[RankingExample]:
    """The examples of a file, one after the other."""
    with path.open(encoding="utf-8") as file:
        for text in file:
            yield from_json(json.loads(text))


class ExampleFile(IndexedExamples):
    """The examples of a file, each read when it is asked for."""

    @contextmanager
    def _parser(self) -> Iterator[Callable[[bytes], RankingExample]]:
        yield self._outline

    def _outline(self, line: bytes) -> RankingExample:
        return from_json(json.loads(line))


def _candidate(candidate: Candidate) -> dict[str, Any]:
    known: dict[str, Any] = {
        "title": candidate.title or None,
        "images": list(candidate.images) or None,
        "rank": candidate.rank,
        "score": candidate.score,
        "features": dict(candidate.features) or None,
    }
    row: dict[str, Any] = {"docid": candidate.docid, "text": candidate.text}
    return row | {name: value for name, value in known.items() if value is not None}


def _teacher(output: TeacherOutput) -> dict[str, Any]:
    return {
        "teacher": output.teacher,
        "paradigm": output.paradigm,
        "docids": list(output.docids),
        "text": output.text,
        "prompt": output.prompt,
    }
