"""Training formats of the examples: SFT rows, rows for retrievers, a parquet file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rl_rerank.data import examples as lines
from rl_rerank.io.files import replacing
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.requirements import load
from rl_rerank.synthesis.prompts import questions, shuffled
from rl_rerank.types import RankingExample

BATCH = 256
"""Rows of the parquet file kept in memory."""


def sft(
    examples: Sequence[RankingExample], name: str, paradigm: Paradigm, count: int, *, seed: int, answered: bool
) -> Iterator[dict[str, Any]]:
    """Make up to `count` rows `{qid, paradigm, docids (prompt order), target, teacher}` in a seeded order.

    Args:
        answered: use teachers' answers in this paradigm as targets; otherwise targets are made from labels.
    """
    rows = _answered(examples, name, seed) if answered else _labelled(examples, name, paradigm, seed)
    return islice(rows, count)


def _answered(examples: Sequence[RankingExample], name: str, seed: int) -> Iterator[dict[str, Any]]:
    for example in shuffled(examples, f"{seed}:{name}:0"):
        for output in example.teachers:
            if output.paradigm == name:
                yield _row(example, name, output.docids, output.text, output.teacher)


def _labelled(examples: Sequence[RankingExample], name: str, paradigm: Paradigm, seed: int) -> Iterator[dict[str, Any]]:
    for example, prompt in questions(examples, paradigm, seed, lambda example: called_for(example, paradigm)):
        yield _row(example, name, prompt.docids, paradigm.target(example, prompt), "labels")


def _row(example: RankingExample, name: str, docids: Sequence[str], target: str, teacher: str) -> dict[str, Any]:
    return {"qid": example.qid, "paradigm": name, "docids": list(docids), "target": target, "teacher": teacher}


def called_for(example: RankingExample, paradigm: Paradigm) -> RankingExample:
    """Replace the example's grades by those that a target in this paradigm is made from.

    Scores in points come from gold scores, an order or a choice from a gold order, if it covers all candidates of the
    example; all other grades come from its judgments.
    """
    scale = traits(paradigm).score_scale
    gold: dict[str, Any] = {}
    if scale == "points" and example.scores is not None:
        gold = {**example.scores}
    elif not scale and example.order is not None:
        gold = {docid: len(example.order) - place for place, docid in enumerate(example.order)}
    return replace(example, qrels=gold) if gold.keys() >= set(example.docids) else example


def retriever(example: RankingExample) -> Iterator[dict[str, Any]]:
    """Yield a row `{qid, query, positive, negatives, scores}` with texts for each relevant candidate.

    Negatives are the candidates judged not relevant or not judged, in the example's order. Scores are the teacher's,
    or else the grades: the positive's first, then the negatives'.
    """
    grade = {c.docid: example.gain(c.docid) for c in example.candidates}
    scores = example.scores if example.scores is not None and example.scores.keys() >= grade.keys() else grade
    text = {c.docid: {"docid": c.docid, "title": c.title, "text": c.text} for c in example.candidates}
    negatives = [docid for docid in grade if not grade[docid]]
    for docid in grade:
        if grade[docid] and negatives:
            yield {
                "qid": example.qid,
                "query": example.query,
                "positive": text[docid],
                "negatives": [text[d] for d in negatives],
                "scores": [scores[d] for d in (docid, *negatives)],
            }


def parquet(examples: Iterable[RankingExample], path: Path) -> None:
    """Write the examples as one parquet file; maps keyed by docid become lists of pairs.

    Raises:
        ImportError: without pyarrow.
    """
    arrow, files = (load(module, "outputs=[parquet]") for module in ("pyarrow", "pyarrow.parquet"))
    text, real = arrow.string(), arrow.float64()
    candidate = arrow.struct(
        [("docid", text), ("title", text), ("text", text), ("rank", arrow.int64()), ("score", real)]
    )
    teacher = arrow.struct([(n, arrow.list_(text) if n == "docids" else text) for n in _TEACHER])
    schema = arrow.schema(
        [
            *((name, text) for name in ("qid", "query", "instruction", "split")),
            ("candidates", arrow.list_(candidate)),
            ("qrels", arrow.map_(text, arrow.int64())),
            ("order", arrow.list_(text)),
            ("scores", arrow.map_(text, real)),
            ("teachers", arrow.list_(teacher)),
            ("provenance", arrow.map_(text, text)),
        ]
    )
    rows = map(_columns, examples)
    with replacing(path) as file, files.ParquetWriter(file, schema) as writer:
        while some := list(islice(rows, BATCH)):
            writer.write_table(arrow.Table.from_pylist(some, schema=schema))


_TEACHER = ("teacher", "paradigm", "docids", "text", "prompt")


def _columns(example: RankingExample) -> dict[str, Any]:
    row: dict[str, Any] = {"instruction": "", "order": None, "teachers": [], **lines.to_json(example)}
    maps: Mapping[str, Any] = {"qrels": example.qrels, "scores": example.scores, "provenance": example.provenance}
    return {**row, **{name: None if found is None else list(found.items()) for name, found in maps.items()}}
