"""The scores of finished runs as a teacher's."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rl_rerank.data.sources.reading import records, string
from rl_rerank.io import trec
from rl_rerank.ranking.fusion import scaled
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample

METHODS = ("none", "zscore", "minmax")


@dataclass(frozen=True)
class RunScores:
    """Gold scores, and the gold order by them, of the candidates that a run has scored; or several runs, an ensemble.

    A path is a rerank stage's `rankings.jsonl`, whose `raw_scores` are the model's own, or a TREC run, plain or .gz.
    Our TREC runs change equal scores slightly to keep their order, or write ranks instead of scores. With several runs
    a document's score is the weighted mean of its scores, each run's normalised over the candidates of the query.

    Documents without a score in one of the runs have none, and are counted as `unscored`. An example without any
    document that all runs have scored is dropped and counted as `without_scores`. The content of the files is part of
    the stage's record, so that a stage is not continued with other runs.
    """

    path: str | list[str]
    """One run, or a list of runs."""
    normalise: Literal["none", "zscore", "minmax"] = "none"
    """What is done to the scores of a query: `zscore` subtracts their mean and divides by their population standard
    deviation, `minmax` scales them to [0, 1]; both give 0 where all are equal. `none`: as they are."""
    weights: list[float] | None = None
    """Weight of each run, at least 0; they are divided by their sum. null: all equal."""

    def __post_init__(self) -> None:
        if not self.reads_files or not all(isinstance(path, str) for path in self.reads_files):
            raise ValueError(f"run_scores: path must be a file, or a list of files; got {self.path!r}")
        if self.normalise not in METHODS:
            raise ValueError(f"run_scores: normalise must be one of {', '.join(METHODS)}; got {self.normalise!r}")
        if self.weights is None:
            return
        if len(self.weights) != len(self.reads_files):
            raise ValueError(
                f"run_scores: weights must be as many as runs, {len(self.reads_files)}; got {len(self.weights)}"
            )
        if not all(0 <= weight < math.inf for weight in self.weights) or not sum(self.weights):
            raise ValueError(
                f"run_scores: weights must be finite numbers of at least 0, and one above 0; got {self.weights}"
            )

    @property
    def reads_files(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with `order` and `scores`.

        Raises:
            FileNotFoundError, ValueError: for a file that is missing or not of this form.
        """
        runs = [
            context.resources.shared(("run", path), lambda path=path: read(Path(path))) for path in self.reads_files
        ]
        weights = self.weights or [1.0] * len(runs)
        for example in examples:
            found = [run.get(example.qid, {}) for run in runs]
            known = [docid for docid in example.docids if all(docid in one for one in found)]
            if not known:
                context.counts["without_scores"] += 1
                continue
            context.counts["unscored"] += len(example.docids) - len(known)
            scores = _mean([_normalised({d: one[d] for d in known}, self.normalise) for one in found], weights)
            order = tuple(sorted(scores, key=lambda docid, scores=scores: -scores[docid]))
            said = {**example.provenance, context.name: self._said}
            yield replace(example, order=order, scores=scores, provenance=said)

    @property
    def _said(self) -> str:
        scaled = "" if self.normalise == "none" else f", {self.normalise}"
        weights = "" if self.weights is None else f", weights {', '.join(f'{weight:g}' for weight in self.weights)}"
        return f"scores of {', '.join(Path(path).name for path in self.reads_files)}{scaled}{weights}"


def _normalised(scores: dict[str, float], method: str) -> dict[str, float]:
    return scores if method == "none" else scaled(scores, method)


def _mean(runs: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    if len(runs) == 1:
        return dict(runs[0])  # as they are, without the rounding of a product
    total = sum(weights)
    return {
        docid: sum(weight * run[docid] for weight, run in zip(weights, runs, strict=True)) / total for docid in runs[0]
    }


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
            "A paradigm that gives an order only has no scores, nor has a first stage where data.ensure_relevant added "
            "a relevant document"
        )
    for docid, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise ValueError(
                f"{place}, qid {row['qid']!r}, docid {docid!r}: a score must be a finite number; got {score!r:.80}"
            )
    return {docid: float(score) for docid, score in scores.items()}
