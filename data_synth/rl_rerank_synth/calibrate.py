"""Graded relevance from what happened after a click, learned from a few judgments."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl_rerank.data.sources.reading import records
from rl_rerank.requirements import load
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth import click_log
from rl_rerank_synth.shorter import only


@dataclass(frozen=True)
class Calibrate:
    """A tree model maps post-click features (clicks, skips, long clicks, dwell, ...) to grades.

    It is trained on the pairs that are judged, gives every pair of the other examples a score, which is its expected
    grade, and the nearest grade. Examples with a judged pair pass as they are. As Zou et al. 2021,
    https://arxiv.org/abs/2105.11108, calibrate clicks; which features and trees they use is from an account of it.
    The features are of what happened after the page was shown: no ranker may see them, and no prompt does.
    """

    path: str | None = None
    """Lines `{qid, docid, NAME: number, ...}`; null: `features` are the candidates' own."""
    features: Sequence[str] = ()
    """Without a path: the names of the candidates' features, numbers, of which a candidate may lack some."""
    rounds: int = 100

    whole = True
    requires = ("sklearn",)

    def __post_init__(self) -> None:
        if (self.path is None) == (not self.features):
            raise ValueError(
                f"calibrate: either path or features must be given; got path={self.path} and "
                f"features={list(self.features)}"
            )

    @property
    def reads_files(self) -> tuple[str, ...]:
        return () if self.path is None else (self.path,)

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples; those without a judgment get scores, an order and grades for the pairs that have features.

        Raises:
            ImportError: without scikit-learn.
            ValueError: if no judged pair has features, or all have one grade; for a feature that is no number, or that
                no candidate has.
        """
        held = list(examples)
        if self.path is None:
            known, source = self._own(held), ", ".join(self.features)
        else:
            known, source = click_log.features(records(Path(self.path))), Path(self.path).name
        rows = [
            (known[example.qid, docid], grade)
            for example in held
            for docid, grade in example.qrels.items()
            if (example.qid, docid) in known
        ]
        model = fit([values for values, _ in rows], [grade for _, grade in rows], context.number, self.rounds)
        for example in held:
            if example.qrels:
                yield example
                continue
            pairs = {d: known[example.qid, d] for d in example.docids if (example.qid, d) in known}
            if not pairs:
                context.counts["without_features"] += 1
                continue
            scores = dict(zip(pairs, model(list(pairs.values())), strict=True))
            order = tuple(sorted(scores, key=lambda docid, scores=scores: -scores[docid]))
            grades = {docid: round(score) for docid, score in scores.items()}
            said = {**example.provenance, context.name: f"{source}, {len(scores)} documents"}
            yield replace(only(example, scores), order=order, scores=scores, qrels=grades, provenance=said)

    def _own(self, examples: Sequence[RankingExample]) -> dict[tuple[str, str], dict[str, float]]:
        """(qid, docid) -> the candidate's features by name; those without any are left out."""
        found: dict[tuple[str, str], dict[str, float]] = {}
        for example in examples:
            for candidate in example.candidates:
                values = {name: candidate.features[name] for name in self.features if name in candidate.features}
                for name, value in values.items():
                    if isinstance(value, str):
                        raise ValueError(
                            f"calibrate: qid {example.qid!r}, docid {candidate.docid!r}: the feature {name} must be a "
                            f"number; got {value!r}"
                        )
                    found.setdefault((example.qid, candidate.docid), {})[name] = float(value)
        for name in self.features:
            if not any(name in values for values in found.values()):
                there = sorted({own for example in examples for c in example.candidates for own in c.features})
                raise ValueError(
                    f"calibrate: no candidate has the feature {name}; they have {', '.join(there) or 'none'}"
                )
        return found


def fit(rows: Sequence[Mapping[str, float]], grades: Sequence[int], seed: int, rounds: int = 100) -> Any:
    """A function from feature rows to expected grades, by scikit-learn's histogram gradient boosting.

    What a row lacks is missing for the trees, not 0.
    """
    if len(set(grades)) < 2:
        raise ValueError(
            f"a calibrator learns from judged pairs of at least two grades that have features; there are {len(grades)} "
            f"pairs of grades {sorted(set(grades))}"
        )
    trees = load("sklearn.ensemble", "the step calibrate")
    names = sorted({name for row in rows for name in row})

    def table(some: Sequence[Mapping[str, float]]) -> list[list[float]]:
        return [[row.get(name, float("nan")) for name in names] for row in some]

    model = trees.HistGradientBoostingClassifier(max_iter=rounds, random_state=seed % 2**32, early_stopping=False)
    model.fit(table(rows), list(grades))
    classes = [int(value) for value in model.classes_]

    def expected(some: Sequence[Mapping[str, float]]) -> list[float]:
        shares = model.predict_proba(table(some))
        return [float(sum(p * grade for p, grade in zip(row, classes, strict=True))) for row in shares]

    return expected
