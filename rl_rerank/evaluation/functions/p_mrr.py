"""Whether a ranking follows a changed instruction."""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from rl_rerank.evaluation.measures import Run
from rl_rerank.io.trec import trec_order


class InstructionChange(NamedTuple):
    """How far documents that an instruction made not relevant went down."""

    mean: float
    """p-MRR over the queries that have such documents: 1 is all the way down, 0 no change, -1 all the way up."""
    per_query: dict[str, float]
    missing: tuple[str, ...]
    """Queries of which a run lacks such a document, in the order of `changed`. They count 0."""


def p_mrr(original: Run, followed: Run, changed: Mapping[str, Collection[str]]) -> InstructionChange:
    """p-MRR of two runs over the same candidates.

    Args:
        original: the run with the original instructions.
        followed: the run with the changed ones.
        changed: qid -> docids that were relevant and are so no more.

    For a document at rank `a` before and `b` behind it is `1 - a / b` where it went down and `b / a - 1` where it went
    up, then the mean over the documents of a query, then over queries.

    Raises:
        ValueError: where `changed` is empty, or a query in it.

    Source: FollowIR, Weller et al. 2024, https://arxiv.org/abs/2403.15246, eq. 1
    """
    if not changed:
        raise ValueError("changed names no query, so there is no instruction whose effect could be measured")
    per_query: dict[str, float] = {}
    missing: list[str] = []
    for qid, docids in changed.items():
        if not docids:
            raise ValueError(f"changed: qid {qid!r} has no document that its instruction made not relevant")
        before, behind = _ranks(original, qid), _ranks(followed, qid)
        if before.keys() >= set(docids) and behind.keys() >= set(docids):
            per_query[qid] = math.fsum(_change(before[d], behind[d]) for d in docids) / len(docids)
        else:
            per_query[qid] = 0.0
            missing.append(qid)
    return InstructionChange(math.fsum(per_query.values()) / len(per_query), per_query, tuple(missing))


def _change(before: int, behind: int) -> float:
    return 1 - before / behind if behind >= before else behind / before - 1


def _ranks(run: Run, qid: str) -> dict[str, int]:
    return {docid: rank for rank, docid in enumerate(trec_order(run.get(qid, {})), start=1)}
