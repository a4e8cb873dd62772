"""Two teachers' orders made into one, as GroupRank labels its data."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample


@dataclass(frozen=True)
class RankFusion:
    """Scores S(d) = -beta ln p(d) - (1 - beta) ln l(d) from the ranks, from 1, that two earlier steps gave.

    Gold scores are S mapped to 0..`points`, which the paper's figure shows and its text does not say; the gold order
    is by S, equal ones as the candidates stand. Source: GroupRank, https://arxiv.org/abs/2511.11653.
    """

    first: str
    """The name of a step that ranked, such as a pointwise one."""
    second: str
    beta: float = 0.5
    points: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"rank_fusion: beta must be from 0 to 1; got {self.beta}")

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with `order` and `scores`.

        Raises:
            LookupError: if an example has no ranks by one of the steps.
        """
        for example in examples:
            first, second = (_ranks(example, name) for name in (self.first, self.second))
            fused = {d: -self.beta * math.log(first[d]) - (1 - self.beta) * math.log(second[d]) for d in example.docids}
            low, high = min(fused.values()), max(fused.values())
            span = high - low or 1.0
            yield replace(
                example,
                order=tuple(sorted(example.docids, key=lambda docid, fused=fused: -fused[docid])),
                scores={docid: self.points * (value - low) / span for docid, value in fused.items()},
                provenance={
                    **example.provenance,
                    context.name: f"ranks of {self.first} and {self.second}, beta {self.beta:g}",
                },
            )


def _ranks(example: RankingExample, step: str) -> dict[str, float]:
    ranks = {c.docid: c.features.get(f"{step}_rank") for c in example.candidates}
    found = {docid: rank for docid, rank in ranks.items() if isinstance(rank, float) and rank >= 1}
    if len(found) < len(ranks):
        raise LookupError(f"qid {example.qid!r}: the step {step!r} has not ranked its candidates")
    return found
