"""Pointwise graded: one document a prompt, answered with an integer score.

    system  Score the passage's relevance to the query from 0 to 10.
    user    Query: how are glacier caves formed?
            Passage: A glacier cave is a cave formed within the ice of a glacier.
            Answer with the score only, like 7.
    answer  10

Documents are ordered by one of three rules, with score s and its probability p:

    plain     s, as generated. Many documents share a score; these keep the order shown.
    weighted  s * p(s) of the generated score. After ERank, https://arxiv.org/abs/2509.00520. Every 0 stays 0.
    expected  the mean of all scores, each weighted by p(s) / sum of p. Nothing is generated.

The probability includes the token that ends the score. With the digits alone, p("1") would be the probability of "1" or
"10". `expected` scores every number followed by the end of the turn; `weighted` multiplies up to the first token after
the number.

`weighted` reads `Completion.logprobs`, one for each of `token_ids` (including the stop token), and with reasoning also
`Completion.token_ends`, to find the number's tokens. An answer without them counts as malformed (`no_probability`). In
strict mode, which rewards use, a generated answer's score is the number itself under every rule. The same holds for
teachers in synthesis, since only the text of their answers is kept.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rl_rerank.metrics import softmax
from rl_rerank.paradigms.answers import (
    NUMBER,
    Answer,
    find_answer,
    issue,
    no_answer,
    not_finite,
    scaled,
    thought,
    written,
)
from rl_rerank.paradigms.base import Strategy
from rl_rerank.paradigms.lenient.scores import loose_score
from rl_rerank.paradigms.pointwise import score_each
from rl_rerank.paradigms.windows import training_window
from rl_rerank.paradigms.wordings import words_of
from rl_rerank.prompts.constraints import Score
from rl_rerank.prompts.tags import Tags
from rl_rerank.prompts.wordings.wording import Wording
from rl_rerank.types import END, Completion, Judgment, Prompt, RankingExample, Status

RULES = ("plain", "weighted", "expected")


@dataclass(frozen=True)
class PointwiseGraded:
    max_score: int = 10
    rule: str = "plain"
    """What documents are ordered by: `plain`, `weighted` or `expected`."""
    documents: int = 4
    """Training: documents per query, of at least two grades."""
    reasoning: bool = False
    think_tokens: int = 256
    """With reasoning: tokens that the reasoning may take."""
    think_open: bool = False
    """With reasoning: the chat template ends the prompt with `<think>`, so that answers begin inside the reasoning."""

    constrained: bool = False
    """Engines hold answers to a score, token by token. Not with reasoning."""
    wording: str | Mapping[str, Any] | None = None
    """The words of the prompts: a name, a file or its content; None: the paradigm's own. `make` sets what follows."""

    name = "pointwise_graded"
    score_scale = "points"

    def __post_init__(self) -> None:
        if self.max_score < 1:
            raise ValueError(f"pointwise_graded: max_score must be at least 1; got {self.max_score}")
        if self.documents < 2:
            raise ValueError(f"pointwise_graded: documents must be at least 2, for two grades; got {self.documents}")
        if self.rule not in RULES:
            raise ValueError(f"pointwise_graded: rule must be one of {', '.join(RULES)}; got {self.rule!r}")
        if self.rule == "expected" and self.reasoning:
            raise ValueError(
                "pointwise_graded: rule=expected scores numbers right behind the prompt, where with reasoning=true the "
                "reasoning stands; use rule=weighted, or reasoning=false"
            )
        if self.constrained and self.reasoning:
            raise ValueError("pointwise_graded: constrained=true holds the whole completion to a score: no reasoning")
        _ = self._words  # A wording that cannot be used is refused now.

    @cached_property
    def _words(self) -> Wording:
        return words_of(self.name, self.wording)

    @property
    def tags(self) -> Tags:
        return self._words.answer.tags

    @property
    def prompts_per_query(self) -> int:
        return self.documents

    @property
    def continuations(self) -> tuple[str, ...]:
        return tuple(f"{s}{END}" for s in range(self.max_score + 1)) if self.rule == "expected" else ()

    @property
    def needs_logprobs(self) -> bool:
        return self.rule == "weighted"

    @property
    def as_written(self) -> PointwiseGraded:
        return replace(self, rule="plain") if self.rule == "weighted" else self

    @property
    def max_completion_tokens(self) -> int:
        # At most a token a character, and the end token.
        longest = written(str(self.max_score), reasoning=self.reasoning, tags=self.tags)
        return len(longest) + 1 + (self.think_tokens if self.reasoning else 0)

    def choices(self, prompt: Prompt) -> tuple[str, ...]:
        return tuple(map(str, range(self.max_score + 1)))

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        [_] = docids
        scores = ", ".join(map(str, range(self.max_score + 1)))
        reasoning, max_score = self.reasoning, self.max_score
        asked = self._words.prompt(example, docids, reasoning=reasoning, max_score=max_score, scores=scores)
        return replace(asked, constraint=Score(self.max_score)) if self.constrained else asked

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        return [self.prompt(example, [docid]) for docid in training_window(example, self.documents, rng)]

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        score = str(scaled(example, prompt.docids[0], self.max_score))
        said = thought(example, prompt.docids)
        return written(score, reasoning=self.reasoning, thought=said, think_open=self.think_open, tags=self.tags)

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        [docid] = prompt.docids
        if completion.continuations is not None:
            if unusable := not_finite(completion.continuations):
                return Judgment(Status.answer, issues=unusable)
            return Judgment(Status.ok, {docid: _expected(completion.continuations)})
        answer = find_answer(completion, reasoning=self.reasoning, strict=strict, tags=self.tags)
        if answer.text is None:
            return no_answer(answer)
        text, issues = answer.text.strip(), answer.issues
        if re.fullmatch(NUMBER, text) is None:
            issues = (*issues, issue("not_a_score", text))
        elif int(text) > self.max_score:
            issues = (*issues, issue("score_out_of_range", text))
        if strict:
            return Judgment(Status.answer, issues=issues) if issues else Judgment(Status.ok, {docid: float(text)})
        found = loose_score(answer.text, self.max_score)
        if found is None:
            return Judgment(Status.answer, issues=issues)
        score = min(float(found["score"]), float(self.max_score))
        if self.rule == "weighted":
            probability = _probability(completion, answer, found.span("score"), reasoning=self.reasoning)
            if probability is None:
                return Judgment(Status.answer, issues=(*issues, issue("no_probability", text)))
            score *= probability
        return Judgment(Status.repaired if issues else Status.ok, {docid: score}, issues=issues)

    def strategy(self, example: RankingExample) -> Strategy:
        return score_each(self, example)


def _expected(continuations: Mapping[str, float]) -> float:
    """The mean score under the probabilities of all scores, normalised to 1."""
    shares = softmax([*continuations.values()])
    return sum(int(text.removesuffix(END)) * share for text, share in zip(continuations, shares, strict=True))


def _probability(completion: Completion, answer: Answer, span: tuple[int, int], *, reasoning: bool) -> float | None:
    """p of the tokens that hold `span` of the answer and of the first one behind it; None where they are not known."""
    if completion.logprobs is None:
        return None
    if completion.token_ends is None:
        # Without reasoning an answer that is a number and nothing else needs no places: all tokens are the score's.
        alone = not reasoning and completion.text.strip() == (answer.text or "")[slice(*span)]
        return math.exp(math.fsum(completion.logprobs)) if alone else None
    first = bisect_right(completion.token_ends, answer.start + span[0])
    behind = bisect_right(completion.token_ends, answer.start + span[1])
    return math.exp(math.fsum(completion.logprobs[first : behind + 1]))
