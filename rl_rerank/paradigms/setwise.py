"""Setwise: a few documents a prompt, answered with the label of the most relevant one.

    system  Choose the passage that is most relevant to the query.
    user    Query: how are glacier caves formed?
            [A] The ice facade is approximately 60 m high.
            [B] A glacier cave is a cave formed within the ice of a glacier.
            [C] Caves can be found in limestone.
            Answer with the letter of the most relevant passage, like B.
    answer  B

Heapsort or bubblesort over sets produces the ranking, Zhuang et al. 2024, https://arxiv.org/abs/2310.09497. With
labels=numbers and reasoning=true it is Rank-R1, Zhuang et al. 2025, https://arxiv.org/abs/2503.06034, whose answer is
<think>...</think><answer>[2]</answer>.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from rl_rerank.paradigms.answers import thought, written
from rl_rerank.paradigms.base import Strategy
from rl_rerank.paradigms.labels import ALPHABET, KINDS, Labels, choice
from rl_rerank.paradigms.options import check_mode, one_of
from rl_rerank.paradigms.ordering import Counts, rank_top
from rl_rerank.paradigms.sorting import Asking, bubble_top, heap_top, remembering
from rl_rerank.paradigms.wordings import words_of
from rl_rerank.prompts.tags import Tags
from rl_rerank.prompts.wordings.wording import Wording
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample


@dataclass(frozen=True)
class Setwise:
    method: str = "heapsort"
    """heapsort or bubblesort. bubblesort asks about the same set once."""
    children: int = 3
    """A set has one document more. Rank-R1 was trained with 19."""
    k: int = 10
    """Ranks that are settled; below them the shown order stays."""
    mode: str = "generation"
    """generation: the answer is written; scoring: the labels' log-probabilities at the answer position decide."""
    labels: str = "letters"
    """letters: answered as B; numbers: answered as [2]."""
    permutations: int = 1
    """Shuffled orders that every set is shown in, all in one round. Their votes (scoring: probabilities) are added."""
    reasoning: bool = False
    think_tokens: int = 256
    """With reasoning: tokens that the reasoning may take."""
    wording: str | Mapping[str, Any] | None = None
    """The words of the prompts: a name, a file or its content; None: the paradigm's own. `make` sets what follows."""

    name = "setwise"

    def __post_init__(self) -> None:
        one_of("setwise: method", self.method, ("heapsort", "bubblesort"))
        one_of("setwise: labels", self.labels, ("letters", "numbers"))
        check_mode(self.name, self.mode, reasoning=self.reasoning)
        for field in ("children", "k", "permutations"):
            if getattr(self, field) < 1:
                raise ValueError(f"setwise: {field} must be at least 1; got {getattr(self, field)}")
        if self.labels == "letters" and self.children >= len(ALPHABET):
            raise ValueError(
                f"setwise: letters name at most {len(ALPHABET)} documents, so children must be below that; got "
                f"{self.children}. Use labels=numbers"
            )
        _ = self._words  # A wording that cannot be used is refused now.

    @cached_property
    def _words(self) -> Wording:
        return words_of(self.name, self.wording)

    @property
    def tags(self) -> Tags:
        return self._words.answer.tags

    @property
    def continuations(self) -> tuple[str, ...]:
        return self._labels.answers(self.children + 1) if self.mode == "scoring" else ()

    @property
    def max_completion_tokens(self) -> int:
        # At most a token a character, and the end token.
        longest = self._labels.answer(self.children + 1)
        whole = written(longest, reasoning=self.reasoning, tags=self.tags)
        return len(whole) + 1 + (self.think_tokens if self.reasoning else 0)

    def choices(self, prompt: Prompt) -> tuple[str, ...]:
        return self._labels.answers(len(prompt.docids))

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        return self._words.prompt(
            example,
            docids,
            reasoning=self.reasoning,
            name=self._labels.name,
            label=self.labels.removesuffix("s"),
            like=self._labels.answer(2),
        )

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        """One set of one document and others of lower grades, so that there is one right answer."""
        gains = {docid: example.gain(docid) for docid in example.docids}
        better = [docid for docid in gains if gains[docid] > min(gains.values())]
        if not better:
            return []
        best = rng.choice(better)
        lower = [docid for docid in gains if gains[docid] < gains[best]]
        shown = [best, *rng.sample(lower, min(self.children, len(lower)))]
        rng.shuffle(shown)
        return [self.prompt(example, shown)]

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        best = max(range(len(prompt.docids)), key=lambda i: example.qrels.get(prompt.docids[i], 0))
        reason = thought(example, prompt.docids, self._labels.name) if self.reasoning else ""
        return written(self._labels.answer(best + 1), reasoning=self.reasoning, thought=reason, tags=self.tags)

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        return choice(prompt, completion, self._labels, reasoning=self.reasoning, strict=strict, tags=self.tags)

    def strategy(self, example: RankingExample) -> Strategy:
        counts = Counts()
        best = partial(self._best, example, counts)
        if self.method == "heapsort":
            top = yield from heap_top(example.docids, self.k, self.children, best)
        else:
            top = yield from bubble_top(example.docids, self.k, self.children, remembering(best))
        return rank_top(example, top, counts)

    def _best(self, example: RankingExample, counts: Counts, docids: Sequence[str]) -> Asking:
        # By the query's text, not its id: an exported model is asked under other ids and has to answer the same.
        rng = random.Random(f"{counts.num_prompts}:{example.query}")
        orders = [rng.sample(docids, len(docids)) for _ in range(self.permutations)]
        judgments = yield [self.prompt(example, shown) for shown in orders]
        counts.add(judgments)
        return max(docids, key=lambda docid: sum(judgment.scores.get(docid, 0.0) for judgment in judgments))

    @property
    def _labels(self) -> Labels:
        return KINDS[self.labels]
