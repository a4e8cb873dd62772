"""Listwise: a window of documents a prompt, answered by a permutation of their identifiers.

    system  Rank the passages by relevance to the query.
    user    Query: how are glacier caves formed?
            [1] The ice facade is approximately 60 m high.
            [2] A glacier cave is a cave formed within the ice of a glacier.
            Answer with all identifiers, most relevant first, like [2] > [1].
    answer  [2] > [1]

Windows slide from the back of the list to its front, as in RankGPT (Sun et al. 2023), https://arxiv.org/abs/2304.09542;
every further pass does so again over the order that the last one left. A pass settles the first window - stride ranks.
Without a window the whole list is one prompt, as in Liu et al. 2024, https://arxiv.org/abs/2412.14574.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rl_rerank.constraints import Permutation
from rl_rerank.paradigms.answers import NUMBER, contract, find_answer, issue, no_answer, thought, written, wrong_ids
from rl_rerank.paradigms.base import Strategy
from rl_rerank.paradigms.messages import numbered, ours, query, question
from rl_rerank.paradigms.ordering import rank_by_order
from rl_rerank.paradigms.windows import training_window, windows
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Status

PERMUTATION = re.compile(rf"\[{NUMBER}\](?: > \[{NUMBER}\])*")
CHAIN = re.compile(r"\[?\b[0-9]{1,9}\b\]?(?:\s*>\s*\[?\b[0-9]{1,9}\b\]?)+|\[[0-9]{1,9}\]")
"""Identifiers in a lenient answer: a chain of numbers with or without brackets, or one in brackets."""
LONGEST = 100
"""Documents of the longest list that is asked about at once where there is no window."""


@dataclass(frozen=True)
class Listwise:
    window: int | None = 10
    """Documents of one prompt; None: the full list, of at most 100."""
    stride: int | None = None
    """How far the window moves; None: half of it."""
    passes: int = 1
    """How often the window slides over the list."""
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

    name = "listwise"
    continuations = ()

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 2:
            raise ValueError(
                f"listwise: window must be at least 2, because one document has only one order; got {self.window}"
            )
        if self.stride is not None and not 1 <= self.stride <= (self.window or 0):
            raise ValueError(f"listwise: stride must be from 1 to window={self.window}; got {self.stride}")
        if self.passes < 1:
            raise ValueError(f"listwise: passes must be at least 1; got {self.passes}")
        if self.constrained and self.reasoning:
            raise ValueError("listwise: constrained=true holds the whole completion to a permutation: no reasoning")

    @property
    def max_completion_tokens(self) -> int:
        # At most a token a character, and the end token.
        longest = _written(range(1, (self.window or LONGEST) + 1))
        return len(written(longest, reasoning=self.reasoning)) + 1 + (self.think_tokens if self.reasoning else 0)

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        if self.window is None and len(docids) > LONGEST:
            raise ValueError(
                f"qid {example.qid!r}: {len(docids)} documents are too many for one listwise prompt, which has room "
                f"for an answer about {LONGEST}; set the parameter window, and it slides over them"
            )
        form = "Answer with all identifiers, most relevant first, like [2] > [1]."
        user = [*query(example), *numbered(example, docids), ours(f"\n{contract(form, reasoning=self.reasoning)}")]
        asked = question(example, docids, self.name, "Rank the passages by relevance to the query.", user)
        return replace(asked, constraint=Permutation(len(docids))) if self.constrained else asked

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        docids = training_window(example, self.window or LONGEST, rng)
        return [self.prompt(example, docids)] if docids else []

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        n = len(prompt.docids)
        order = sorted(range(1, n + 1), key=lambda i: -example.qrels.get(prompt.docids[i - 1], 0))
        said = thought(example, prompt.docids)
        return written(_written(order), reasoning=self.reasoning, thought=said, think_open=self.think_open)

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        answer = find_answer(completion, reasoning=self.reasoning, strict=strict)
        if answer.text is None:
            return no_answer(answer)
        n = len(prompt.docids)
        text = answer.text.strip()
        if PERMUTATION.fullmatch(text):
            ids = tuple(map(int, re.findall(r"[0-9]+", text)))
            issues = (*answer.issues, *wrong_ids(ids, n))
        elif strict:
            return Judgment(Status.answer, issues=(*answer.issues, issue("not_a_permutation", text)))
        else:
            ids = tuple(int(i) for chain in CHAIN.findall(text) for i in re.findall(r"[0-9]+", chain))
            issues = (*answer.issues, issue("not_a_permutation", text), *wrong_ids(ids, n))
        if not issues:
            return Judgment(Status.ok, _scores(prompt, ids), ids)
        kept = tuple(dict.fromkeys(i for i in ids if 1 <= i <= n))
        if not kept and not strict:
            return Judgment(Status.answer, ids=ids, issues=issues)
        if strict or (len(kept) < n and not self.complete):
            return Judgment(Status.ids, ids=ids, issues=issues)
        completed = kept + tuple(i for i in range(1, n + 1) if i not in kept)
        return Judgment(Status.repaired, _scores(prompt, completed), ids, issues)

    def strategy(self, example: RankingExample) -> Strategy:
        docids = list(example.docids)
        prompts = malformed = fallbacks = 0
        window = self.window or max(len(docids), 2)
        for start, end in windows(len(docids), window, self.stride or window // 2) * self.passes:
            [judgment] = yield [self.prompt(example, docids[start:end])]
            prompts += 1
            malformed += not judgment.is_ok
            fallbacks += not judgment.scores
            shown = docids[start:end]
            docids[start:end] = sorted(shown, key=lambda d, j=judgment: -j.scores.get(d, 0.0))
        return rank_by_order(example.qid, docids, prompts, malformed, fallbacks)


def _written(ids: Iterable[int]) -> str:
    return " > ".join(f"[{i}]" for i in ids)


def _scores(prompt: Prompt, ids: Sequence[int]) -> dict[str, float]:
    n = len(ids)
    return {prompt.docids[i - 1]: float(n - rank) for rank, i in enumerate(ids)}
