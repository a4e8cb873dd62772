"""First token: a window of documents a prompt, ordered by the probability that the answer begins with their letters.

    system  Rank the passages by relevance to the query.
    user    Query: how are glacier caves formed?
            [A] The ice facade is approximately 60 m high.
            [B] A glacier cave is a cave formed within the ice of a glacier.
            Answer with all letters, most relevant first, like B > A.
    answer  B > A; inference reads only the probabilities of A and B at the first position

One forward pass orders a window, and no token is generated. FIRST, Reddy et al. 2024, https://arxiv.org/abs/2406.15657.
The identifiers are letters because a letter is one token at the beginning of an answer, and 10 is not. With
labels=bracketed an answer is [B] > [A], as FIRST's is, and the probabilities are those behind the opening bracket.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rl_rerank.paradigms.answers import not_finite, written
from rl_rerank.paradigms.base import Strategy
from rl_rerank.paradigms.labels import ALPHABET, KINDS, Labels, order
from rl_rerank.paradigms.options import one_of
from rl_rerank.paradigms.windows import check_windows, slide, training_window
from rl_rerank.paradigms.wordings import words_of
from rl_rerank.prompts.wordings.wording import Wording
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Status


@dataclass(frozen=True)
class FirstToken:
    window: int = 20
    """At most 26."""
    stride: int | None = None
    """How far the window moves; None: half of it."""
    passes: int = 1
    """How often the windows slide over the list."""
    labels: str = "letters"
    """letters: answered as B > A; bracketed: as [B] > [A]."""
    wording: str | Mapping[str, Any] | None = None
    """The words of the prompts: a name, a file or its content; None: the paradigm's own. `make` sets what follows."""

    name = "first_token"
    list_scores = "identifiers"

    def __post_init__(self) -> None:
        check_windows(self.name, self.window, self.stride)
        if self.window > len(ALPHABET):
            raise ValueError(f"first_token: window must be at most {len(ALPHABET)}, the letters; got {self.window}")
        one_of("first_token: labels", self.labels, ("letters", "bracketed"))
        if self.passes < 1:
            raise ValueError(f"first_token: passes must be at least 1; got {self.passes}")
        _ = self._words  # A wording that cannot be used is refused now.

    @cached_property
    def _words(self) -> Wording:
        return words_of(self.name, self.wording)

    @property
    def _labels(self) -> Labels:
        return KINDS[self.labels]

    @property
    def continuations(self) -> tuple[str, ...]:
        return self._labels.beginnings(self.window)

    @property
    def max_completion_tokens(self) -> int:
        # At most a token a character, and the end token.
        return len(self._labels.ordered(range(1, self.window + 1))) + 1

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        return self._words.prompt(example, docids, name=self._labels.name, like=self._labels.ordered((2, 1)))

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        docids = training_window(example, self.window, rng)
        return [self.prompt(example, docids)] if docids else []

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        n = len(prompt.docids)
        best = sorted(range(1, n + 1), key=lambda i: -example.qrels.get(prompt.docids[i - 1], 0))
        return written(self._labels.ordered(best), reasoning=False)

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        """Scores are log-probabilities where letters were scored, places in the order where it was written."""
        if completion.continuations is not None:
            logprobs = {text: completion.continuations[text] for text in self._labels.beginnings(len(prompt.docids))}
            if unusable := not_finite(logprobs):
                return Judgment(Status.answer, issues=unusable)
            return Judgment(Status.ok, dict(zip(prompt.docids, logprobs.values(), strict=True)))
        return order(prompt, completion, self._labels, reasoning=False, strict=strict)

    def strategy(self, example: RankingExample) -> Strategy:
        return slide(example, self.prompt, self.window, self.stride, self.passes)
