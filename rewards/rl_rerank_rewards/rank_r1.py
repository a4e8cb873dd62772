"""Rank-R1's reward: the right label in the right form."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.reward.format_penalty import without_outside
from rl_rerank.types import Completion, RankingExample, Rollout
from rl_rerank_rewards.setwise_label import SetwiseLabel

ALONE = {labels: Setwise(labels=labels) for labels in ("letters", "numbers")}
FIRST = re.compile(r"<think>.*?</think>\s*<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class RankR1:
    """1.0 for naming a document of the highest grade in the asked form, 0.0 for everything else.

    Text outside the tags is ignored, as the published expression is searched for, not matched.

    Paradigms: setwise.

    Source: Rank-R1, https://arxiv.org/abs/2503.06034, and its code.
    """

    first_block: bool = False
    """True, as published: of several answer blocks the first one behind a `</think>` counts. Otherwise several earn
    0."""

    paradigms: ClassVar[tuple[str, ...]] = ("setwise",)

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        alone = ALONE["numbers" if "[" in rollout.completion.text.rpartition("<answer>")[2] else "letters"]
        read = without_outside(rollout, alone)
        first = FIRST.search(rollout.completion.text) if self.first_block else None
        if first is not None:
            read = replace(rollout, judgment=alone.parse(rollout.prompt, Completion(first[1].strip()), strict=True))
        return SetwiseLabel()(example, read)
