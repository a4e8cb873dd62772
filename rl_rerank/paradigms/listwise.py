"""Listwise: a window of documents a prompt, answered with a permutation of their identifiers.

    system  Rank the passages by relevance to the query.
    user    Query: how are glacier caves formed?
            [1] The ice facade is approximately 60 m high.
            [2] A glacier cave is a cave formed within the ice of a glacier.
            Answer with all identifiers, most relevant first, like [2] > [1].
    answer  [2] > [1]

Windows slide from the back of the list to its front, as in RankGPT (Sun et al. 2023), https://arxiv.org/abs/2304.09542.
Every further pass repeats this on the order that the last one produced. A pass settles the first window - stride ranks.
Without a window the whole list is one prompt, as in Liu et al. 2024, https://arxiv.org/abs/2412.14574, who also stop an
answer behind the first `top` identifiers.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rl_rerank.paradigms.answers import thought, written
from rl_rerank.paradigms.base import Strategy
from rl_rerank.paradigms.labels import NUMBERS, order
from rl_rerank.paradigms.order_scores import OrderScores
from rl_rerank.paradigms.windows import check_windows, settle, slide, training_window
from rl_rerank.paradigms.wordings import check_form, words_of
from rl_rerank.prompts.constraints import Beginning, Permutation
from rl_rerank.prompts.messages import check_shown
from rl_rerank.prompts.tags import Tags
from rl_rerank.prompts.wordings.wording import Wording
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Status

LONGEST = 100
"""Documents of the longest list in one prompt where there is no window."""


@dataclass(frozen=True)
class Listwise:
    window: int | None = 10
    """Documents of one prompt; None: the full list, of at most 100."""
    stride: int | None = None
    """How far the window moves; None: half of it."""
    passes: int = 1
    """How often the window slides over the list."""
    settle: bool = False
    """Inference: passes go over what the ones before have not settled, until every rank is: labels for a whole list."""
    complete: bool = True
    """Inference: an answer that leaves documents out is completed with these, in the order shown, behind those that it
    names. It counts as malformed either way; False: nothing of it is used."""
    reasoning: bool = False
    think_tokens: int = 256
    """With reasoning: tokens that the reasoning may take."""
    think_open: bool = False
    """With reasoning: the chat template ends the prompt with `<think>`, so that answers begin inside the reasoning."""
    constrained: bool = False
    """Engines hold answers to a permutation of the identifiers, token by token. Not with reasoning."""
    top: int | None = None
    """Inference, with constrained=true: an answer ends behind this many identifiers, and the other documents follow in
    the order shown, so that only these ranks are decoded. None: an answer names all."""
    shown: str = "text"
    """What of a document prompts show: its `text`, its `images`, or `both`."""
    wording: str | Mapping[str, Any] | None = None
    """The words of the prompts: a name, a file or its content; None: the paradigm's own. `make` sets what follows."""

    name = "listwise"
    continuations = ()

    def __post_init__(self) -> None:
        check_shown(self.name, self.shown)
        if self.window is not None:
            check_windows(self.name, self.window, self.stride)
        elif self.stride is not None:
            raise ValueError(f"listwise: stride={self.stride} needs a window that moves; window is null")
        if self.passes < 1:
            raise ValueError(f"listwise: passes must be at least 1; got {self.passes}")
        if self.settle and (self.window is None or self.passes > 1 or self.stride == self.window):
            raise ValueError(
                f"listwise: settle=true makes as many passes as it needs, each of which settles window - stride ranks; "
                f"got window={self.window}, stride={self.stride}, passes={self.passes}"
            )
        if self.constrained and self.reasoning:
            raise ValueError("listwise: constrained=true holds the whole completion to a permutation: no reasoning")
        if self.top is not None and (self.top < 1 or not self.constrained):
            raise ValueError(
                f"listwise: top must be at least 1 and needs constrained=true, which ends answers behind that many "
                f"identifiers; got top={self.top}, constrained={str(self.constrained).lower()}"
            )
        check_form(self.name, self._words, constrained=self.constrained)

    @cached_property
    def _words(self) -> Wording:
        return words_of(self.name, self.wording)

    @property
    def tags(self) -> Tags:
        return self._words.answer.tags

    @property
    def max_completion_tokens(self) -> int:
        # At most a token a character, and the end token.
        longest = self._ordered(range(1, (self.window or LONGEST) + 1))
        whole = written(longest, reasoning=self.reasoning, tags=self.tags)
        return len(whole) + 1 + (self.think_tokens if self.reasoning else 0)

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        if self.window is None and len(docids) > LONGEST:
            raise ValueError(
                f"qid {example.qid!r}: {len(docids)} documents are too many for one listwise prompt, which has room "
                f"for an answer about {LONGEST}; set the parameter window, and it slides over them"
            )
        asked = self._words.prompt(example, docids, reasoning=self.reasoning, shown=self.shown)
        if not self.constrained:
            return asked
        n = len(docids)
        return replace(asked, constraint=Permutation(n) if self.top is None else Beginning(n, self.top))

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        docids = training_window(example, self.window or LONGEST, rng)
        return [self.prompt(example, docids)] if docids else []

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        n = len(prompt.docids)
        best = sorted(range(1, n + 1), key=lambda i: -example.qrels.get(prompt.docids[i - 1], 0))
        said = thought(example, prompt.docids)
        form = self._ordered(best)
        return written(form, reasoning=self.reasoning, thought=said, think_open=self.think_open, tags=self.tags)

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        if self.top is not None and not strict and Beginning(len(prompt.docids), self.top).is_whole(completion.text):
            ids = NUMBERS.read(completion.text)
            rest = (i for i in range(1, len(prompt.docids) + 1) if i not in ids)
            return Judgment(Status.ok, OrderScores(prompt.docids, (*ids, *rest)), ids)
        return order(
            prompt,
            completion,
            NUMBERS,
            reasoning=self.reasoning,
            strict=strict,
            complete=self.complete,
            form=self._words.answer.form,
            tags=self.tags,
        )

    def _ordered(self, identifiers: Iterable[int]) -> str:
        """An answer that names several, best first."""
        return json.dumps([*identifiers]) if self._words.answer.form == "array" else NUMBERS.ordered(identifiers)

    def strategy(self, example: RankingExample) -> Strategy:
        window = self.window or max(len(example.docids), 2)
        if self.settle:
            return settle(example, self.prompt, window, self.stride)
        return slide(example, self.prompt, window, self.stride, self.passes)


ORDER = Listwise(window=None)
"""The paradigm of orders that no model wrote: of a policy over scores, whose draws rewards see as its answers."""
