"""Recall of the order that a completion gives."""

from __future__ import annotations

from dataclasses import dataclass

from rl_rerank.metrics import expected_recall
from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class Recall:
    """Recall@k of the window's relevant documents (grade >= 1), in [0, 1]; `malformed` if not well formed.

    In expectation over the orders of equal scores. Where the cutoff is not below the window's size every order earns
    the same, and the group teaches nothing: choose a `k` well below the window.

    Paradigms: listwise, groupwise.
    """

    k: int = 3
    malformed: float = 0.0

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        docids = rollout.prompt.docids
        if not rollout.judgment.is_ok:
            return self.malformed
        qrels = {docid: example.qrels.get(docid, 0) for docid in docids}
        return expected_recall(rollout.judgment.scores, qrels, k=self.k)
