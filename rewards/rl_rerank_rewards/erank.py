"""ERank's reward: pointwise scores, compared over a whole query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.reward.base import Breakdown
from rl_rerank.reward.format_penalty import without_outside
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.pooled_reciprocal_rank import only_scores, pooled_ranks
from rl_rerank_rewards.window import reference_score

CASES = ("reciprocal_rank", "outranking", "error")


@dataclass(frozen=True)
class ERank:
    """Ranks among all N x G scores of a query, in [-1, 1].

    A relevant document earns 1 / rank, equal scores sharing the best of their ranks. Any other one earns `outranking`
    where it stands at or above the worst relevant rollout, and otherwise -((s - t) / scale)^2, where t is the example's
    score of it (`scores`), meant to be the model's own before this training. A malformed completion earns `malformed`
    and takes no rank. Where no rollout is of a relevant document, only the squared error is left.

    Paradigms: pointwise_graded.

    Source: ERank, https://arxiv.org/abs/2509.00520. The paper gives the four cases in words; the constants, "above any
    relevant one" read as "above at least one", and the division by the scale are our reconstruction.
    """

    relevant: int = 1
    """The lowest grade of a relevant document."""
    scale: float = 10.0
    """The highest score."""
    outranking: float = -1.0
    malformed: float = -1.0
    reference: float | None = None
    """t of a document that the example does not score; None: that is an error."""
    search: bool = False
    """Ignore text outside the answer block; the paper does not say."""

    paradigms: ClassVar[tuple[str, ...]] = ("pointwise_graded",)
    unclaimed: ClassVar[dict[str, str]] = {
        "binary": "relevant documents are all alike: the highest score earns the most also for a lower grade"
    }

    def __post_init__(self) -> None:
        if self.malformed > self.outranking:
            raise ValueError(
                f"erank: malformed={self.malformed} must not be above outranking={self.outranking}, or saying nothing "
                "is better than a wrong score"
            )

    def score_all(self, example: RankingExample, rollouts: Sequence[Rollout]) -> list[float]:
        """A value for each of the query's rollouts."""
        return [found.value for found in self.explain_all(example, rollouts)]

    def explain_all(self, example: RankingExample, rollouts: Sequence[Rollout]) -> list[Breakdown]:
        """The values, each under the name of the case that it is: reciprocal_rank, outranking, error or gate.

        The first three are 0 where it is another one: a case's mean is what it adds to the mean of all.
        """
        if self.search:
            alone = PointwiseGraded(max_score=round(self.scale))
            rollouts = [without_outside(rollout, alone) for rollout in rollouts]
        scores = only_scores("erank", rollouts)
        ranks = pooled_ranks(scores)
        relevant = [example.qrels.get(rollout.prompt.docids[0], 0) >= self.relevant for rollout in rollouts]
        worst = max((rank for rank, wanted in zip(ranks, relevant, strict=True) if wanted and rank), default=0)
        found = []
        for rollout, score, rank, is_relevant in zip(rollouts, scores, ranks, relevant, strict=True):
            if score is None or rank is None:
                case, value = "gate", self.malformed
            elif is_relevant:
                case, value = "reciprocal_rank", 1 / rank
            elif rank <= worst:
                case, value = "outranking", self.outranking
            else:
                case, value = "error", -(((score - self._reference(example, rollout)) / self.scale) ** 2)
            found.append(Breakdown(value, {**dict.fromkeys(CASES, 0.0), case: value}))
        return found

    def _reference(self, example: RankingExample, rollout: Rollout) -> float:
        [docid] = rollout.prompt.docids
        if self.reference is not None and docid not in (example.scores or {}):
            return self.reference
        return reference_score(example, docid)
