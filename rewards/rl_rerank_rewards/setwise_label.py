"""Whether the best document was chosen."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import need_several, window_qrels


@dataclass(frozen=True)
class SetwiseLabel:
    """1.0 if a document of the prompt's highest grade was chosen, 0.0 otherwise; `malformed` if not well formed.

    Where labels were scored, the likeliest one is chosen.

    Paradigms: setwise, pairwise.

    Source: Rank-R1, https://arxiv.org/abs/2503.06034
    """

    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ("setwise", "pairwise")

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("setwise_label", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        qrels, scores = window_qrels(example, rollout), rollout.judgment.scores
        return float(qrels[max(scores, key=lambda docid: scores[docid])] == max(qrels.values()))
