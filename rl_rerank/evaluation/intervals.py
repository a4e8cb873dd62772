"""Intervals of an evaluation's means."""

from rl_rerank.evaluation.measures import Evaluation, is_sum
from rl_rerank.evaluation.statistics import bootstrap_intervals


def intervals(result: Evaluation, seed: int) -> dict[str, list[float]]:
    """Measure -> the 95% interval of its mean over queries, without measures that are summed."""
    averaged = [m for m in result.mean if not is_sum(m)]
    samples = [[row[m] for row in result.per_query.values()] for m in averaged]
    found = bootstrap_intervals(samples, seed) if averaged else []
    return {m: [low, high] for m, (low, high) in zip(averaged, found, strict=True)}
