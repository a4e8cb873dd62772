"""Means by group of queries, such as the tasks of a benchmark, and their macro average.

The macro average is the mean of the groups' means, so that every group has the same weight. Its interval resamples
queries inside of each group: the groups are those of the benchmark and would be the same in another sample.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rl_rerank.evaluation.measures import is_sum
from rl_rerank.evaluation.statistics import stratified_intervals

UNGROUPED = "no group"
"""The group of queries that have none, where others have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMeans:
    """The values of one row of the comparison table by group.

    Example:
        >>> GroupMeans(label="GRPO", sizes={"pony": 112}, mean={"nDCG@10": {"pony": 0.31}}, macro={"nDCG@10": 0.31})
    """

    label: str
    sizes: Mapping[str, int]
    """Group -> number of judged queries."""
    mean: Mapping[str, Mapping[str, float]]
    """Measure -> group -> mean. Measures that are sums have none."""
    macro: Mapping[str, float]
    """Measure -> mean over groups."""
    interval: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Measure -> 95% interval of `macro` over queries; empty for a mean over seeds."""


def members(qids: Sequence[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Group -> its queries, groups in the order in which they first occur; empty if no query has a group."""
    found: dict[str, list[str]] = {}
    for qid in qids:
        found.setdefault(groups.get(qid, UNGROUPED), []).append(qid)
    return found if found.keys() - {UNGROUPED} else {}


def group_means(
    label: str, runs: Sequence[Mapping[str, Mapping[str, float]]], groups: Mapping[str, str], seed: int
) -> GroupMeans | None:
    """The means of a row of the table by group; None if no query has a group.

    Args:
        runs: qid -> measure -> value, of one run, or of several runs of one system on the same queries.
        groups: qid -> group.
    """
    by_group = members(list(runs[0]), groups)
    if not by_group:
        return None
    measures = [measure for measure in next(iter(runs[0].values())) if not is_sum(measure)]
    value = {
        measure: {qid: statistics.fmean(run[qid][measure] for run in runs) for qid in runs[0]} for measure in measures
    }
    mean = {
        measure: {group: statistics.fmean(value[measure][qid] for qid in qids) for group, qids in by_group.items()}
        for measure in measures
    }
    intervals: Mapping[str, Sequence[float]] = {}
    if len(runs) == 1 and measures:
        strata = [[[value[m][qid] for qid in qids] for m in measures] for qids in by_group.values()]
        intervals = dict(zip(measures, map(list, stratified_intervals(strata, seed)), strict=True))
    return GroupMeans(
        label=label,
        sizes={group: len(qids) for group, qids in by_group.items()},
        mean=mean,
        macro={measure: statistics.fmean(of.values()) for measure, of in mean.items()},
        interval=intervals,
    )
