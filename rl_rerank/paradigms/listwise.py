"""Listwise: a window of documents a prompt, answered by a permutation of their identifiers.

    system  Rank the passages by relevance to the query.
    user    Query: how are glacier caves formed?
            [1] The ice facade is approximately 60 m high.
            [2] A glacier cave is a cave formed within the ice of a glacier.
            Answer with all identifiers, most relevant first, like [2] > [1].
    answer  [2] > [1]

Windows slide from the back of the list to its front, as in RankGPT (Sun et al. 2023), https://arxiv.org/abs/2304.09542.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rl_rerank.paradigms.answers import thought, written
from rl_rerank.paradigms.base import Strategy
from rl_rerank.paradigms.labels import NUMBERS, order
from rl_rerank.paradigms.messages import contract, numbered, query, question
from rl_rerank.paradigms.windows import check_windows, slide, training_window
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample


@dataclass(frozen=True)
class Listwise:
    window: int = 10
    stride: int | None = None
    """How far the window moves; None: half of it."""
    reasoning: bool = False
    think_tokens: int = 256
    """With reasoning: tokens that the reasoning may take."""

    name = "listwise"
    continuations = ()

    def __post_init__(self) -> None:
        check_windows(self.name, self.window, self.stride)

    @property
    def max_completion_tokens(self) -> int:
        # At most a token a character, and the end token.
        longest = NUMBERS.ordered(range(1, self.window + 1))
        return len(written(longest, reasoning=self.reasoning)) + 1 + (self.think_tokens if self.reasoning else 0)

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        asked = contract("Answer with all identifiers, most relevant first, like [2] > [1].", reasoning=self.reasoning)
        user = [*query(example), *numbered(example, docids), asked]
        return question(example, docids, self.name, "Rank the passages by relevance to the query.", user)

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        docids = training_window(example, self.window, rng)
        return [self.prompt(example, docids)] if docids else []

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        n = len(prompt.docids)
        best = sorted(range(1, n + 1), key=lambda i: -example.qrels.get(prompt.docids[i - 1], 0))
        reason = thought(example, prompt.docids) if self.reasoning else ""
        return written(NUMBERS.ordered(best), reasoning=self.reasoning, thought=reason)

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        return order(prompt, completion, NUMBERS, reasoning=self.reasoning, strict=strict)

    def strategy(self, example: RankingExample) -> Strategy:
        return slide(example, self.prompt, self.window, self.stride)
