"""Equal scores: a document among them stands on any of their ranks, all equally likely.

Ranks count from 0 here, so that they are places in a list.
"""

from collections.abc import Mapping, Sequence

Order = Sequence[str] | Mapping[str, float]
"""docids best first, or docid -> score, of which equal ones stand on any of their ranks."""


def groups(order: Order) -> list[list[str]]:
    """docids best first, those of equal scores together; ValueError where a list repeats one."""
    if isinstance(order, Mapping):
        return tied_groups(order)
    if len(set(order)) != len(order):
        raise ValueError("docids must not repeat: a repeated docid would be counted twice")
    return [[docid] for docid in order]


def tied_groups(scores: Mapping[str, float]) -> list[list[str]]:
    """docids by score, highest first, those of equal scores together."""
    if len(set(scores.values())) == len(scores):
        return [[docid] for docid in sorted(scores, key=scores.__getitem__, reverse=True)]
    by_score: dict[float, list[str]] = {}
    for docid, score in scores.items():
        by_score.setdefault(score, []).append(docid)
    return [by_score[score] for score in sorted(by_score, reverse=True)]


def expected_gains(groups: Sequence[Sequence[str]], gains: Mapping[str, float]) -> list[float]:
    """The gain expected on every rank: the mean gain of the group that stands there. Documents without a gain have 0.

    Source: McSherry & Najork 2008, https://doi.org/10.1007/978-3-540-78646-7_38
    """
    found: list[float] = []
    for group in groups:
        if len(group) == 1:
            found.append(gains.get(group[0], 0.0))
        else:
            found += [sum(gains.get(docid, 0.0) for docid in group) / len(group)] * len(group)
    return found
