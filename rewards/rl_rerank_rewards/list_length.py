"""Whether an answer names as many documents as were shown."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class ListLength:
    """1 - |identifiers - n| / n for the different identifiers of an answer to a prompt of n documents, at most 1.

    `unreadable` where there are none. Below 0 where there are more than 2n.

    Paradigms: listwise, groupwise, first_token.

    Source: the length factor of MM-R5's format reward, https://arxiv.org/abs/2506.12364
    """

    unreadable: float = -1.0

    paradigms: ClassVar[tuple[str, ...]] = ("listwise", "groupwise", "first_token")
    unclaimed: ClassVar[dict[str, str]] = {"orders": "it counts documents"}

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        count, n = len(set(rollout.judgment.ids)), len(rollout.prompt.docids)
        return 1 - abs(count - n) / n if count else self.unreadable
