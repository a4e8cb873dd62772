"""Pointwise: one document a prompt, answered with yes or no; the score is log p(yes) - log p(no).

    system  Is the passage relevant to the query?
    user    Query: how are glacier caves formed?
            Passage: A glacier cave is a cave formed within the ice of a glacier.
            Answer yes or no.
    answer  yes

Scores follow Nogueira et al. 2020 (monoT5), https://arxiv.org/abs/2003.06713, with log-probabilities in float32.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rl_rerank.paradigms.answers import find_answer, issue, not_finite
from rl_rerank.paradigms.base import Paradigm, Strategy
from rl_rerank.paradigms.lenient.words import loose_word
from rl_rerank.paradigms.ordering import rank_by_scores
from rl_rerank.paradigms.wordings import words_of
from rl_rerank.prompts.messages import check_shown
from rl_rerank.prompts.wordings.wording import Wording
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Status


@dataclass(frozen=True)
class Pointwise:
    positive: str = "yes"
    negative: str = "no"
    relevant: int = 1
    """The lowest grade whose gold answer is positive."""
    pairs: int = 1
    """Training: prompts with a positive answer for each query, and as many with a negative one."""
    max_completion_tokens: int = 4
    shown: str = "text"
    """What of a document prompts show: its `text`, its `images`, or `both`."""
    wording: str | Mapping[str, Any] | None = None
    """The words of the prompts: a name, a file or its content; None: the paradigm's own. `make` sets what follows."""

    name = "pointwise"
    score_scale = "log_odds"
    list_scores = "documents"

    def __post_init__(self) -> None:
        check_shown(self.name, self.shown)
        if self.pairs < 1:
            raise ValueError(f"pointwise: pairs must be at least 1; got {self.pairs}")
        if not self.positive or self.positive == self.negative:
            raise ValueError(
                "pointwise: positive and negative must be two different answers; got "
                f"{self.positive!r} and {self.negative!r}"
            )
        _ = self._words  # A wording that cannot be used is refused now.

    @cached_property
    def _words(self) -> Wording:
        return words_of(self.name, self.wording)

    @property
    def prompts_per_query(self) -> int:
        return 2 * self.pairs

    @property
    def continuations(self) -> tuple[str, ...]:
        return (self.positive, self.negative)

    def choices(self, prompt: Prompt) -> tuple[str, ...]:
        return self.continuations

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        [_] = docids
        positive, negative = self.positive, self.negative
        return self._words.prompt(example, docids, shown=self.shown, positive=positive, negative=negative)

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        positive = [d for d in example.docids if self._is_relevant(example, d)]
        negative = [d for d in example.docids if not self._is_relevant(example, d)]
        count = min(self.pairs, len(positive), len(negative))
        chosen = rng.sample(positive, count) + rng.sample(negative, count)
        rng.shuffle(chosen)
        return [self.prompt(example, [docid]) for docid in chosen]

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        return self.positive if self._is_relevant(example, prompt.docids[0]) else self.negative

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        [docid] = prompt.docids
        if completion.continuations is not None:
            logprobs = completion.continuations
            if unusable := not_finite({text: logprobs[text] for text in self.continuations}):
                return Judgment(Status.answer, issues=unusable)
            return Judgment(Status.ok, {docid: logprobs[self.positive] - logprobs[self.negative]})
        answer = find_answer(completion, reasoning=False, strict=strict)
        if answer.text is None:
            return Judgment(Status.answer, issues=answer.issues)
        values = {self.positive: 1.0, self.negative: 0.0}
        text = answer.text.strip()
        if text in values and not answer.issues:
            return Judgment(Status.ok, {docid: values[text]})
        issues = (*answer.issues, issue("not_the_exact_answer", text))
        place = None if strict else loose_word(text, (self.negative, self.positive))
        if place is None:
            return Judgment(Status.answer, issues=issues)
        return Judgment(Status.repaired, {docid: float(place)}, issues=issues)

    def strategy(self, example: RankingExample) -> Strategy:
        return score_each(self, example)

    def _is_relevant(self, example: RankingExample, docid: str) -> bool:
        return example.qrels.get(docid, 0) >= self.relevant


def score_each(paradigm: Paradigm, example: RankingExample) -> Strategy:
    """Ask about every document alone, all in one round, and order by score."""
    judgments = yield [paradigm.prompt(example, [docid]) for docid in example.docids]
    scores: dict[str, float] = {}
    malformed = 0
    for docid, judgment in zip(example.docids, judgments, strict=True):
        malformed += not judgment.is_ok
        if judgment.scores:
            scores[docid] = judgment.scores[docid]
    failed = len(example.docids) - len(scores)
    return rank_by_scores(example, scores, num_prompts=len(judgments), num_malformed=malformed, num_fallbacks=failed)
