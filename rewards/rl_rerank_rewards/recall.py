"""Recall of the order that a completion gives."""

from __future__ import annotations

from dataclasses import dataclass

from rl_rerank.metrics import expected_recall
from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class Recall:
    """Recall@k of the window's relevant documents (grade >= 1), in [0, 1]; `malformed` if not well formed.

    In expectation over the orders of equal scores. A cutoff of at least the window's size is constant and teaches
    nothing, so it is refused.

    Paradigms: listwise, groupwise.
    """

    k: int = 3
    malformed: float = 0.0

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        docids = rollout.prompt.docids
        if self.k >= len(docids):
            raise ValueError(
                f"recall: k={self.k} is not below the {len(docids)} documents of the prompt of qid {example.qid!r}, so "
                "every order would earn the same; lower rewards.recall.params.k"
            )
        if not rollout.judgment.is_ok:
            return self.malformed
        qrels = {docid: example.qrels.get(docid, 0) for docid in docids}
        return expected_recall(rollout.judgment.scores, qrels, k=self.k)
