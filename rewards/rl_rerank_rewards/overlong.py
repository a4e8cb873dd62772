"""A penalty for completions near the length limit."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class Overlong:
    """0 up to `max_tokens` - `buffer` tokens, then falling to -1 at `max_tokens`; -1 for a completion that was cut.

    Set `max_tokens` to the longest completion that is sampled.

    Paradigms: all.

    Source: soft overlong punishment of DAPO, https://arxiv.org/abs/2503.14476.
    """

    max_tokens: int = 1024
    buffer: int = 256

    paradigms: ClassVar[tuple[str, ...]] = ("listwise", "groupwise", "setwise", "pairwise", "pointwise_graded")
    unclaimed: ClassVar[dict[str, str]] = {"orders": "it counts tokens"}

    def __post_init__(self) -> None:
        if not 0 < self.buffer <= self.max_tokens:
            raise ValueError(f"overlong: buffer must be from 1 to max_tokens={self.max_tokens}; got {self.buffer}")

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        if rollout.completion.finish_reason == "length":
            return -1.0
        over = len(rollout.completion.token_ids) - (self.max_tokens - self.buffer)
        return -min(max(over / self.buffer, 0.0), 1.0)
