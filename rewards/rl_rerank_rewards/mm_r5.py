"""MM-R5's reward: powers of ranks, and a format that is paid by degrees."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import reciprocal_power
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.reward.base import Breakdown
from rl_rerank.reward.format_penalty import Tier, tier_of, without_outside
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import window_qrels

ALONE = Listwise(window=None)


@dataclass(frozen=True)
class MMR5:
    """Sum of 1 / rank^3 over relevant documents, over the best order's, plus a format of length x range, in (.., 2].

    length is 1 - |identifiers - n| / n, range the share of identifiers that were shown; a wrong identifier keeps its
    rank. 0.0 where no list can be read. Rank 2 earns an eighth of rank 1, so nearly all of it is about the first rank.

    Paradigms: listwise.

    Source: MM-R5, https://arxiv.org/abs/2506.12364, and its code. The list is written as the paradigm asks.
    What unreadable, repeated and cut answers earn is our choice, and so is refusing text outside the block.
    """

    exponent: float = 3.0
    dedupe: bool = True
    """Repeated identifiers count once, as the paper says. False, as published: they count for the length."""
    search: bool = False
    """Ignore text outside the answer block."""
    malformed: float = 0.0
    """Where no list can be read."""

    paradigms: ClassVar[tuple[str, ...]] = ("listwise",)
    unclaimed: ClassVar[dict[str, str]] = {
        "pays_partial": "a list without the documents ahead of a relevant one can earn more than the whole list"
    }

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        return self.explain(example, rollout).value

    def explain(self, example: RankingExample, rollout: Rollout) -> Breakdown:
        """The value with its parts: `result` and `format`, or the gate."""
        read = without_outside(rollout, ALONE) if self.search else rollout
        if tier_of(read.judgment) not in (Tier.valid, Tier.ids) or not read.judgment.ids:
            return Breakdown(self.malformed, {"gate": self.malformed})
        ids = list(dict.fromkeys(read.judgment.ids)) if self.dedupe else list(read.judgment.ids)
        docids = rollout.prompt.docids
        n = len(docids)
        named = [docids[i - 1] if 1 <= i <= n else "" for i in ids]
        result = reciprocal_power(named, window_qrels(example, rollout), exponent=self.exponent)
        length = 1 - abs(len(ids) - n) / n
        in_range = sum(1 <= i <= n for i in ids) / len(ids)
        return Breakdown(result + length * in_range, {"result": result, "format": length * in_range})
