"""Measures of finding everything: how much of a topic's documents must be read until all its relevant ones are found.

They join the notation of ir_measures: `WSS@95`, `LastRel`, `RPercent@20`, `NormArea`, each with `rel` (default 1).
`rl_rerank.metrics.total_recall` has the formulas.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ir_measures import Metric, providers
from ir_measures.measures import Measure, ParamInfo, register
from ir_measures.providers.base import Any as Anything

from rl_rerank.metrics.total_recall import found, norm_area, wss

_REL = {"rel": ParamInfo(dtype=int, default=1, desc="lowest grade that is relevant")}
_PERCENT = ParamInfo(dtype=int, required=True, choices=range(1, 101))


class WorkSaved(Measure):
    """Work saved over sampling at a recall in percent; a ranking that never reaches it is worth 0."""

    __name__ = NAME = "WSS"
    AT_PARAM = "recall"
    SUPPORTED_PARAMS = _REL | {"recall": _PERCENT}

    def value(self, docids: Sequence[str], grades: Mapping[str, int]) -> float:
        return wss(docids, grades, recall=self["recall"] / 100, rel=self["rel"])


class LastRelevant(Measure):
    """Rank of the last relevant document that was found, 0 where none was; lower is better.

    What a ranking misses does not show in it: read it beside `RPercent@100`.
    """

    __name__ = NAME = "LastRel"
    SUPPORTED_PARAMS = _REL

    def value(self, docids: Sequence[str], grades: Mapping[str, int]) -> float:
        ranks, _, _ = found(docids, grades, self["rel"])
        return float(max(ranks, default=0))


class RecallAtPercent(Measure):
    """Share of the relevant documents that stand in the first `round(N percent / 100)` ranks."""

    __name__ = NAME = "RPercent"
    AT_PARAM = "percent"
    SUPPORTED_PARAMS = _REL | {"percent": _PERCENT}

    def value(self, docids: Sequence[str], grades: Mapping[str, int]) -> float:
        ranks, r, n = found(docids, grades, self["rel"])
        last = round(n * self["percent"] / 100)
        return sum(rank <= last for rank in ranks) / (r or 1)


class NormArea(Measure):
    """Area under the curve of found documents over ranks, by trapezoids, as a share of the largest possible one."""

    __name__ = NAME = "NormArea"
    SUPPORTED_PARAMS = _REL

    def value(self, docids: Sequence[str], grades: Mapping[str, int]) -> float:
        return norm_area(docids, grades, rel=self["rel"])


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
                    yield Metric(qid, measure, measure.value(docids, grades))


for _measure in MEASURES:
    register(_measure(), name=_measure.NAME)
