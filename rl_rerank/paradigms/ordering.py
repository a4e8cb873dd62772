"""From scores or an order to a ranking whose scores decrease strictly, so that no tool can break ties differently."""

import dataclasses
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rl_rerank.types import Judgment, Ranking, RankingExample


@dataclass
class Counts:
    """What a strategy counts while it asks, under the names of `Ranking`."""

    num_prompts: int = 0
    num_malformed: int = 0
    num_fallbacks: int = 0
    num_ties: int = 0

    def add(self, judgments: Sequence[Judgment]) -> None:
        """Count the answers of a round."""
        self.num_prompts += len(judgments)
        self.num_malformed += sum(not judgment.is_ok for judgment in judgments)
        self.num_fallbacks += sum(not judgment.scores for judgment in judgments)


def rank_by_scores(
    example: RankingExample,
    scores: Mapping[str, float],
    *,
    num_prompts: int,
    num_malformed: int,
    num_fallbacks: int,
    num_ties: int = 0,
) -> Ranking:
    """Order by score, equal scores in shown order; documents without a score are given one as `imputed` says."""
    ranking = order_by(example.qid, example.docids, imputed(example, scores))
    return dataclasses.replace(
        ranking,
        num_prompts=num_prompts,
        num_malformed=num_malformed,
        num_fallbacks=num_fallbacks,
        num_ties=num_ties,
        raw_scores=dict(scores),
    )


def rank_by_order(
    qid: str,
    docids: Sequence[str],
    num_prompts: int = 0,
    num_malformed: int = 0,
    num_fallbacks: int = 0,
    num_ties: int = 0,
) -> Ranking:
    """The scores n, n - 1, ..., 1."""
    scores = {docid: float(len(docids) - rank) for rank, docid in enumerate(docids)}
    return Ranking(qid, tuple(docids), scores, num_prompts, num_malformed, num_fallbacks, num_ties)


def rank_top(example: RankingExample, top: Sequence[str], counts: Counts) -> Ranking:
    """The best documents, then the others in shown order."""
    rest = (docid for docid in example.docids if docid not in top)
    return rank_by_order(example.qid, (*top, *rest), **vars(counts))


def order_by(qid: str, shown: Sequence[str], scores: Mapping[str, float]) -> Ranking:
    """Order by score, equal scores in shown order; where 32-bit floats cannot tell two apart, ranks become scores."""
    docids = sorted(shown, key=lambda docid: -scores[docid])
    values = [_float32(scores[docid]) for docid in docids]
    if any(a <= b for a, b in pairwise(values)):
        return rank_by_order(qid, docids)
    return Ranking(qid, tuple(docids), {docid: scores[docid] for docid in docids})


def model_scores(example: RankingExample, ranking: Ranking) -> dict[str, float]:
    """The model's own scores, best first and with their ties; documents that it did not score have `imputed` ones.

    n, n - 1, ..., 1 where it gave an order only.
    """
    if ranking.raw_scores is None:
        return dict(ranking.scores)
    filled = imputed(example, ranking.raw_scores)
    return {docid: filled[docid] for docid in ranking.docids}


def imputed(example: RankingExample, scores: Mapping[str, float]) -> dict[str, float]:
    """A score for every document: one that has none is put on the line between its neighbours in the first stage.

    The neighbours are the next documents with a score in front of it and behind it; where there is one on one side
    only, its score is taken. Where there are none at all every score is 0, and the documents keep their shown order.
    """
    if not scores:
        return dict.fromkeys(example.docids, 0.0)
    places = _places(example)
    known = sorted((places[docid], score) for docid, score in scores.items())
    line = np.interp([places[d] for d in example.docids], [p for p, _ in known], [s for _, s in known])
    return {docid: scores.get(docid, float(value)) for docid, value in zip(example.docids, line, strict=True)}


def counts(rankings: Iterable[Ranking]) -> dict[str, int]:
    """Every counter of `Ranking`, summed, and the most rounds: the rankings were made side by side."""
    names = [f.name for f in dataclasses.fields(Ranking) if f.name.startswith("num_")]
    listed = list(rankings)
    sums = {name: sum(getattr(ranking, name) for ranking in listed) for name in names}
    return {**sums, "rounds": max((ranking.rounds for ranking in listed), default=0)}


def _places(example: RankingExample) -> dict[str, int]:
    """docid -> rank in the first stage, or the place as shown where ranks are not known."""
    ranks = {c.docid: c.rank for c in example.candidates if c.rank is not None}
    if len(set(ranks.values())) == len(example.candidates):
        return ranks
    return {docid: place for place, docid in enumerate(example.docids)}


def _float32(value: float) -> float:
    """As trec_eval holds a score."""
    return struct.unpack("f", struct.pack("f", value))[0]
