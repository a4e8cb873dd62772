"""Measures of finding everything: how much of a topic's documents must be read until all its relevant ones are found.

They join the notation of ir_measures: `WSS@95`, `LastRel`, `RPercent@20`, `NormArea`, each with `rel` (default 1).
`N` is the number of documents of a topic, judged or ranked, and `R` the number of relevant ones. A topic without a
relevant document is worth 0.

Source: CLEF TAR 2018, https://github.com/CLEF-TAR/tar (eval_measures_2018). Screening tools define WSS in other ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ir_measures import Metric, providers
from ir_measures.measures import Measure, ParamInfo, register
from ir_measures.providers.base import Any as Anything

_REL = {"rel": ParamInfo(dtype=int, default=1, desc="lowest grade that is relevant")}
_PERCENT = ParamInfo(dtype=int, required=True, choices=range(1, 101))


class WorkSaved(Measure):
    """Work saved over sampling at a recall in percent: `(N - r) / N - (1 - recall / 100)`.

    `r` is the rank at which `round(R recall / 100)` relevant documents are found, a half rounded to the even number. A
    ranking that never finds them is worth 0.
    """

    __name__ = NAME = "WSS"
    AT_PARAM = "recall"
    SUPPORTED_PARAMS = _REL | {"recall": _PERCENT}

    def value(self, is_relevant: Sequence[bool], num_relevant: int, num_documents: int) -> float:
        """Args: whether the document of every rank is relevant; R; N."""
        share = self.params["recall"] / 100
        last = _rank_of(round(share * num_relevant), is_relevant)
        return 0.0 if last is None else (num_documents - last) / num_documents - (1 - share)


class LastRelevant(Measure):
    """Rank of the last relevant document that was found, 0 where none was; lower is better.

    What a ranking misses does not show in it: read it beside `RPercent@100`.
    """

    __name__ = NAME = "LastRel"
    SUPPORTED_PARAMS = _REL

    def value(self, is_relevant: Sequence[bool], num_relevant: int, num_documents: int) -> float:
        """Args: whether the document of every rank is relevant; R; N."""
        return float(_rank_of(sum(is_relevant), is_relevant) or 0)


class RecallAtPercent(Measure):
    """Share of the relevant documents that stand in the first `round(N percent / 100)` ranks."""

    __name__ = NAME = "RPercent"
    AT_PARAM = "percent"
    SUPPORTED_PARAMS = _REL | {"percent": _PERCENT}

    def value(self, is_relevant: Sequence[bool], num_relevant: int, num_documents: int) -> float:
        """Args: whether the document of every rank is relevant; R; N."""
        return sum(is_relevant[: round(num_documents * self.params["percent"] / 100)]) / num_relevant


class NormArea(Measure):
    """Area under the curve of found documents over ranks, by trapezoids, as a share of the largest possible one."""

    __name__ = NAME = "NormArea"
    SUPPORTED_PARAMS = _REL

    def value(self, is_relevant: Sequence[bool], num_relevant: int, num_documents: int) -> float:
        """Args: whether the document of every rank is relevant; R; N."""
        # A document found at rank r counts half there and whole at every rank behind it.
        area = sum(num_documents - rank + 0.5 for rank, found in enumerate(is_relevant, start=1) if found)
        return area / (num_relevant * num_documents - num_relevant**2 / 2)


MEASURES = (WorkSaved, LastRelevant, RecallAtPercent, NormArea)
TotalRecallMeasure = WorkSaved | LastRelevant | RecallAtPercent | NormArea


_ANY_PARAMETERS: list[Measure] = [m(**dict.fromkeys(m.SUPPORTED_PARAMS, Anything())) for m in MEASURES]


class TotalRecall(providers.Provider):
    """Computes `MEASURES`. Equal scores stand in the order of the run."""

    NAME = "total_recall"
    SUPPORTED_MEASURES = _ANY_PARAMETERS

    def _evaluator(self, measures: Iterable[Measure], qrels: Any) -> providers.Evaluator:
        return _Evaluator([m for m in measures if isinstance(m, MEASURES)], qrels)


class _Evaluator(providers.Evaluator):
    def __init__(self, measures: Sequence[TotalRecallMeasure], qrels: Mapping[str, Mapping[str, int]]) -> None:
        super().__init__(measures, set(qrels))
        self.chosen, self.qrels = measures, qrels

    def _iter_calc(self, run: Any) -> Iterator[Metric]:
        for qid, scores in run.items():
            if grades := self.qrels.get(qid):
                docids = sorted(scores, key=lambda docid: -scores[docid])
                for measure in self.chosen:
                    yield Metric(qid, measure, topic_value(measure, docids, grades))


def topic_value(measure: TotalRecallMeasure, docids: Sequence[str], grades: Mapping[str, int]) -> float:
    """The value of one topic's ranking; one without documents counts as a ranking that finds nothing."""
    relevant = {docid for docid, grade in grades.items() if grade >= measure["rel"]}
    if not relevant:
        return 0.0
    num_documents = len(grades.keys() | set(docids))
    return measure.value([docid in relevant for docid in docids], len(relevant), num_documents)


def _rank_of(count: int, is_relevant: Sequence[bool]) -> int | None:
    """The rank at which so many relevant documents are found; 0 for none, None where there are fewer."""
    ranks = [0, *(rank for rank, found in enumerate(is_relevant, start=1) if found)]
    return ranks[count] if count < len(ranks) else None


for _measure in MEASURES:
    register(_measure(), name=_measure.NAME)
