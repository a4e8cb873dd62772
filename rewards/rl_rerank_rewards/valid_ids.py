"""Whether identifiers are of documents that were shown."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class ValidIds:
    """Share of the different identifiers in an answer that were shown, in [0, 1]; `unreadable` where there are none.

    Paradigms: listwise, groupwise, setwise, first_token.

    Source: the range factor of MM-R5's format reward, https://arxiv.org/abs/2506.12364
    """

    unreadable: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ("listwise", "groupwise", "setwise", "first_token")
    unclaimed: ClassVar[dict[str, str]] = {"orders": "it reads identifiers and not their order"}

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        ids, n = set(rollout.judgment.ids), len(rollout.prompt.docids)
        return sum(1 <= i <= n for i in ids) / len(ids) if ids else self.unreadable
