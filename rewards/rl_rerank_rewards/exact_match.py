"""Whether a yes/no answer is right."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class ExactMatch:
    """1.0 for the right answer about one document, 0.0 for the wrong one, `malformed` for none.

    A document is relevant from the grade `relevant` on. Meaningful where positives and negatives are balanced.

    Paradigms: pointwise.

    Source: the accuracy reward of ProRank, https://arxiv.org/abs/2506.03487
    """

    relevant: int = 1
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ("pointwise",)

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        if len(rollout.prompt.docids) != 1:
            raise ValueError(f"exact_match judges one document a prompt; got {len(rollout.prompt.docids)}")
        if not rollout.judgment.is_ok:
            return self.malformed
        [docid] = rollout.prompt.docids
        # A generated answer scores 1 or 0; a scored one log p(positive) - log p(negative), which 0 divides.
        middle = 0.5 if rollout.completion.continuations is None else 0.0
        said_relevant = rollout.judgment.scores[docid] > middle
        return float(said_relevant == (example.qrels.get(docid, 0) >= self.relevant))
