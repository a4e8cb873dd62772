"""nDCG of the order that a completion gives."""

from __future__ import annotations

from dataclasses import dataclass

from rl_rerank.metrics import expected_ndcg
from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class NDCG:
    """nDCG@k of the prompt's window, in [0, 1]; `malformed` if the completion is not well formed.

    Linear gains, in expectation over the orders of equal scores. The ideal is taken over the window, not over all
    qrels: the policy can only order what it was shown.

    Paradigms: listwise, groupwise.
    """

    k: int = 10
    malformed: float = 0.0

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        docids = rollout.prompt.docids
        if len(docids) < 2:
            raise ValueError("ndcg needs prompts of at least 2 documents: one document has only one order")
        if not rollout.judgment.is_ok:
            return self.malformed
        qrels = {docid: example.qrels.get(docid, 0) for docid in docids}
        return expected_ndcg(rollout.judgment.scores, qrels, k=self.k)
