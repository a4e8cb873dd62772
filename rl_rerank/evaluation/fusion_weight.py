"""The weight of a fusion, chosen on development queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl_rerank.evaluation.measures import Qrels, evaluate, lower_is_better
from rl_rerank.ranking.fusion import fuse
from rl_rerank.types import Ranking

WEIGHTS = tuple(round(step / 20, 2) for step in range(21))


@dataclass(frozen=True, slots=True)
class ChosenWeight:
    """A weight with everything that it was chosen by.

    Example:
        >>> ChosenWeight("zscore", 0.65, "nDCG@10", ["encoder_dev", "bm25_dev"], 213, [0.567, 0.571, ...])
    """

    method: str
    weight: float
    measure: str
    runs: Sequence[str]
    """The rerank stages whose rankings of development queries were fused."""
    num_queries: int
    values: Sequence[float]
    """The mean of the measure over all judged development queries at each of WEIGHTS."""


def choose(
    first: Mapping[str, Ranking],
    second: Mapping[str, Ranking],
    qrels: Qrels,
    *,
    method: str,
    measure: str,
    runs: Sequence[str],
) -> ChosenWeight:
    """Choose the weight of `first` with the best mean. Of equally good ones the nearest to .5 is chosen.

    Args:
        first, second: qid -> ranking, of the same development queries.
    """
    values: list[float] = []
    num_queries = 0
    for weight in WEIGHTS:
        fused = {qid: fuse(ranking, second[qid], method, weight).scores for qid, ranking in first.items()}
        result = evaluate(fused, qrels, [measure])
        values.append(result.mean[measure])
        num_queries = len(result.per_query)
    sign = -1 if lower_is_better(measure) else 1
    best = max(range(len(WEIGHTS)), key=lambda i: (sign * values[i], -abs(WEIGHTS[i] - 0.5), -WEIGHTS[i]))
    return ChosenWeight(method, WEIGHTS[best], measure, list(runs), num_queries, values)
