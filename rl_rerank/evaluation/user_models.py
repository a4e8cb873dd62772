"""RBP and ERR: what a user gains who reads from the top and may stop after every document.

ir_measures leaves them to other programs: RBP to cwl-eval, ERR to a perl script that takes numbers for query ids only.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ir_measures import ERR, RBP, Metric, providers
from ir_measures.measures import Measure
from ir_measures.providers.base import Any as Anything

MAX_GRADE = 4
"""The grade at which ERR takes a document to satisfy 15 of 16 users, as gdeval does whatever the qrels' highest is."""


def rbp(grades: Sequence[int], rel: int, p: float, cutoff: int | None) -> float:
    """Rank-biased precision: a user reads on with probability `p`.

    Args:
        grades: by rank, best first; 0 for an unjudged document.

    Source: Moffat & Zobel 2008, https://doi.org/10.1145/1416950.1416952
    """
    return (1 - p) * math.fsum(p**i for i, grade in enumerate(grades[:cutoff]) if grade >= rel)


def err(grades: Sequence[int], cutoff: int | None) -> float:
    """Expected reciprocal rank: a document of grade g satisfies with probability `(2^g - 1) / 2^MAX_GRADE`.

    Args:
        grades: by rank, best first, at most `MAX_GRADE`; 0 for an unjudged document.

    Source: Chapelle et al. 2009, https://doi.org/10.1145/1645953.1646033
    """
    value, reads_on = 0.0, 1.0
    for rank, grade in enumerate(grades[:cutoff], start=1):
        satisfied = (2 ** max(grade, 0) - 1) / 2**MAX_GRADE
        value += reads_on * satisfied / rank
        reads_on *= 1 - satisfied
    return value


_MEASURES: list[Measure] = [
    RBP(cutoff=Anything(), p=Anything(), rel=Anything(required=True)),
    ERR(cutoff=Anything()),
]


class UserModels(providers.Provider):
    """Computes `RBP(p=0.8,rel=1)`, which needs its `rel`, and `ERR@k`. Equal scores stand in the order of the run."""

    NAME = "user_models"
    SUPPORTED_MEASURES = _MEASURES

    def _evaluator(self, measures: Iterable[Measure], qrels: Any) -> providers.Evaluator:
        return _Evaluator(list(measures), qrels)


class _Evaluator(providers.Evaluator):
    def __init__(self, measures: Sequence[Measure], qrels: Mapping[str, Mapping[str, int]]) -> None:
        super().__init__(measures, set(qrels))
        self.qrels = qrels

    def _iter_calc(self, run: Any) -> Iterator[Metric]:
        for qid, scores in run.items():
            if judged := self.qrels.get(qid):
                grades = [judged.get(docid, 0) for docid in sorted(scores, key=lambda docid: -scores[docid])]
                for measure in self.measures:
                    yield Metric(qid, measure, _value(measure, qid, grades))


def _value(measure: Measure, qid: str, grades: Sequence[int]) -> float:
    cutoff = measure.params.get("cutoff")
    if measure.NAME == "RBP":
        return rbp(grades, measure["rel"], measure["p"], cutoff)
    if grades and max(grades) > MAX_GRADE:
        raise ValueError(f"{measure}: qid {qid!r} has the grade {max(grades)}; grades must be at most {MAX_GRADE}")
    return err(grades, cutoff)
