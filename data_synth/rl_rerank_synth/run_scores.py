"""The scores of a finished run as a teacher's."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl_rerank.data.sources.reading import records, string
from rl_rerank.io import trec
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample


@dataclass(frozen=True)
class RunScores:
    """Gold scores, and the gold order by them, of the candidates that a run has scored.

    `path` is a rerank stage's `rankings.jsonl`, whose `raw_scores` are the model's own, or a TREC run, plain or .gz.
    Our TREC runs change equal scores slightly to keep their order, or write ranks instead of scores. An example of
    which the run has no candidate is dropped and counted as `without_scores`; single candidates without a score are
    counted as `unscored`.
    """

    path: str

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with `order` and `scores`.

        Raises:
            FileNotFoundError, ValueError: for a file that is missing or not of this form.
        """
        known = context.resources.shared(("run", self.path), lambda: read(Path(self.path)))
        for example in examples:
            run = known.get(example.qid, {})
            scores = {docid: run[docid] for docid in example.docids if docid in run}
            if not scores:
                context.counts["without_scores"] += 1
                continue
            context.counts["unscored"] += len(example.docids) - len(scores)
            order = tuple(sorted(scores, key=lambda docid, scores=scores: -scores[docid]))
            said = {**example.provenance, context.name: f"scores of {Path(self.path).name}"}
            yield replace(example, order=order, scores=scores, provenance=said)


def read(path: Path) -> Mapping[str, Mapping[str, float]]:
    """qid -> docid -> score.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file and the line.
    """
    if path.suffix != ".jsonl":
        return trec.read_run(path)
    return {string(row, ("qid",), place): _raw_scores(row, place) for place, row in records(path)}


def _raw_scores(row: Mapping[str, Any], place: str) -> dict[str, float]:
    scores = row.get("raw_scores")
    if not isinstance(scores, dict):
        raise ValueError(
            f"{place}, qid {row['qid']!r}: raw_scores must be an object docid -> number; got {json.dumps(scores):.80}. "
            "A paradigm that gives an order only has no scores"
        )
    for docid, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise ValueError(
                f"{place}, qid {row['qid']!r}, docid {docid!r}: a score must be a finite number; got {score!r:.80}"
            )
    return {docid: float(score) for docid, score in scores.items()}
