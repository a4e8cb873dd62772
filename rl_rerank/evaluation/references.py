"""Rankings without a model that put a number in context: the first stage, and the best order of its candidates."""

from collections.abc import Iterable

from rl_rerank.evaluation.measures import Qrels, Run
from rl_rerank.types import RankingExample


def first_stage(examples: Iterable[RankingExample]) -> Run:
    """The candidates in first-stage order."""
    return {e.qid: {docid: -float(rank) for rank, docid in enumerate(e.docids)} for e in examples}


def oracle(examples: Iterable[RankingExample], qrels: Qrels) -> Run:
    """The candidates by grade, highest first; unjudged ones count as grade 0.

    No other order of these candidates has a higher nDCG, AP, RR, precision or recall at any cutoff: what their values
    lack to 1 is not among the candidates.
    """
    return {e.qid: {docid: float(qrels.get(e.qid, {}).get(docid, 0)) for docid in e.docids} for e in examples}
