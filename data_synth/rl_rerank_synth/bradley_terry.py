"""Scores from pairwise votes, by the model of Bradley and Terry."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from rl_rerank.metrics.bradley_terry import PRIOR, strengths
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Completion, Prompt, RankingExample


@dataclass(frozen=True)
class BradleyTerry:
    """Gold scores, and the gold order by them, from the pairwise answers of an earlier step, such as `rank`.

    Every well-formed answer is a vote. A document's score is its log strength: of two, a is preferred with the
    probability 1 / (1 + exp(score of b - score of a)). So scores are log-odds with a natural unit and zero, where wins
    are counts, and they take account of whom a document was compared with. Candidates without a vote have no score and
    are counted as `unscored`; an example without any is dropped and counted as `without_votes`.
    """

    paradigm: str = "pairwise"
    """The paradigm of the answers, which must be written and not scored."""
    prior: float = PRIOR
    """Votes for and against each document in comparisons with an imagined one of score 0. Above 0, so that documents
    which won all comparisons, or none, have finite scores; the more, the closer all are to 0."""

    def __post_init__(self) -> None:
        if not 0 < self.prior < math.inf:
            raise ValueError(
                "bradley_terry: prior must be a finite number above 0, because a document that won every comparison "
                f"would have no finite score; got {self.prior}"
            )

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with `order`, by ties as the candidates stand, and `scores`."""
        paradigm = context.paradigm(self.paradigm)
        for example in examples:
            votes, unusable = _votes(example, self.paradigm, paradigm)
            context.counts["unusable_votes"] += unusable
            docids = [docid for docid in example.docids if any(docid in vote for vote in votes)]
            if not docids:
                context.counts["without_votes"] += 1
                continue
            context.counts["unscored"] += len(example.docids) - len(docids)
            places = {docid: place for place, docid in enumerate(docids)}
            wins = np.zeros((len(docids), len(docids)))
            for better, worse in votes:
                wins[places[better], places[worse]] += 1
            scores = dict(zip(docids, strengths(wins, self.prior).tolist(), strict=True))
            order = tuple(sorted(scores, key=lambda docid, scores=scores: -scores[docid]))
            said = {**example.provenance, context.name: f"Bradley-Terry of {len(votes)} votes, prior {self.prior:g}"}
            yield replace(example, order=order, scores=scores, provenance=said)


def _votes(example: RankingExample, name: str, paradigm: Paradigm) -> tuple[list[tuple[str, str]], int]:
    """Read (better, worse) from the answers about two of the candidates, and count those that cannot be used."""
    found, unusable, shown = [], 0, set(example.docids)
    for output in example.teachers:
        if output.paradigm != name or not shown.issuperset(output.docids):
            continue
        judgment = paradigm.parse(Prompt(example.qid, output.docids, ()), Completion(output.text), strict=False)
        if len(judgment.scores) != 2 or len(set(judgment.scores.values())) != 2:
            unusable += 1
            continue
        worse, better = sorted(judgment.scores, key=judgment.scores.__getitem__)
        found.append((better, worse))
    return found, unusable
