"""Groupwise: a small group of documents a prompt, answered with one integer score each, as JSON.

    system  Score each passage's relevance to the query from 0 to 10.
    user    Query: how are glacier caves formed?
            [1] The ice facade is approximately 60 m high.
            [2] A glacier cave is a cave formed within the ice of a glacier.
            Answer in JSON, like {"[1]": 3, "[2]": 7}.
    answer  {"[1]": 0, "[2]": 10}

Groups are random and disjoint, and are sent in one round; groups cut from the first-stage order rank worse. The last
group holds the remainder. All documents are then ordered by score, with `repeats` by the mean over several partitions.
After GroupRank, https://arxiv.org/abs/2511.11653.
"""

import json
import random
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rl_rerank.paradigms.answers import (
    NUMBER,
    find_answer,
    issue,
    no_answer,
    scaled,
    thought,
    without_cut_number,
    written,
    wrong_ids,
)
from rl_rerank.paradigms.base import Strategy
from rl_rerank.paradigms.lenient.score_maps import loose_scores
from rl_rerank.paradigms.ordering import rank_by_scores
from rl_rerank.paradigms.windows import training_window
from rl_rerank.paradigms.wordings import check_form, fenced, without_fence, words_of
from rl_rerank.prompts.constraints import Scores
from rl_rerank.prompts.tags import Tags
from rl_rerank.prompts.wordings.wording import Wording
from rl_rerank.types import Completion, Issue, Judgment, Prompt, RankingExample, Status

KEY = re.compile(rf"\[({NUMBER})\]")


@dataclass(frozen=True)
class Groupwise:
    size: int = 5
    repeats: int = 1
    """How many random partitions into groups are asked; a document's score is the mean over them."""
    seed: int = 0
    """Together with the qid it decides the partitions, so that compared models see the same groups."""
    max_score: int = 10
    reasoning: bool = False
    think_tokens: int = 256
    """With reasoning: tokens that the reasoning may take."""
    think_open: bool = False
    """With reasoning: the chat template ends the prompt with `<think>`, so that answers begin inside the reasoning."""
    constrained: bool = False
    """Engines hold answers to the JSON form with every identifier, token by token. Not with reasoning."""
    wording: str | Mapping[str, Any] | None = None
    """The words of the prompts: a name, a file or its content; None: the paradigm's own. `make` sets what follows."""

    name = "groupwise"
    score_scale = "points"
    continuations = ()

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(
                f"groupwise: size must be at least 2; one document is a pointwise question; got {self.size}"
            )
        if self.repeats < 1:
            raise ValueError(f"groupwise: repeats must be at least 1; got {self.repeats}")
        if self.max_score < 1:
            raise ValueError(f"groupwise: max_score must be at least 1; got {self.max_score}")
        if self.constrained and self.reasoning:
            raise ValueError("groupwise: constrained=true holds the whole completion to JSON: no reasoning")
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
        longest = self._form({f"[{i}]": self.max_score for i in range(1, self.size + 1)})
        whole = written(longest, reasoning=self.reasoning, tags=self.tags)
        return len(whole) + 1 + (self.think_tokens if self.reasoning else 0)

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        asked = self._words.prompt(example, docids, reasoning=self.reasoning, max_score=self.max_score)
        return replace(asked, constraint=Scores(len(docids), self.max_score)) if self.constrained else asked

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        docids = training_window(example, self.size, rng)
        return [self.prompt(example, docids)] if docids else []

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        scores = {f"[{i}]": scaled(example, d, self.max_score) for i, d in enumerate(prompt.docids, start=1)}
        said = thought(example, prompt.docids)
        form = self._form(scores)
        return written(form, reasoning=self.reasoning, thought=said, think_open=self.think_open, tags=self.tags)

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        answer = find_answer(completion, reasoning=self.reasoning, strict=strict, tags=self.tags)
        if answer.text is None:
            return no_answer(answer)
        text, n = answer.text.strip(), len(prompt.docids)
        pairs = _strict_pairs(without_fence(text, self._words.answer.fence), self.max_score)
        issues: tuple[Issue, ...] = answer.issues
        if pairs is None:
            issues = (*issues, issue("not_json_scores", text))
            if strict:
                return Judgment(Status.answer, issues=issues)
            found = loose_scores(without_cut_number(completion, text), n, self.max_score)
            pairs = [(i, min(max(score, 0.0), float(self.max_score))) for i, score in found]
        ids = tuple(i for i, _ in pairs)
        issues = (*issues, *wrong_ids(ids, n))
        if not issues:
            return Judgment(Status.ok, {prompt.docids[i - 1]: score for i, score in pairs}, ids)
        if strict:
            return Judgment(Status.ids, ids=ids, issues=issues)
        given = {i: score for i, score in pairs if 1 <= i <= n}
        if not given or (0 in ids and n not in ids):  # Counted from 0, the document 1 would be the second.
            return Judgment(Status.answer, ids=ids, issues=issues)
        # A document that the answer leaves out goes behind those that it names.
        below = min(given.values()) - 1.0
        scores = {docid: given.get(i, below) for i, docid in enumerate(prompt.docids, start=1)}
        return Judgment(Status.repaired, scores, ids, issues)

    def strategy(self, example: RankingExample) -> Strategy:
        groups = [group for repeat in range(self.repeats) for group in self._groups(example, repeat)]
        judgments = yield [self.prompt(example, group) for group in groups]
        given: dict[str, list[float]] = {}
        for judgment in judgments:
            for docid, score in judgment.scores.items():
                given.setdefault(docid, []).append(score)
        return rank_by_scores(
            example,
            {docid: statistics.fmean(scores) for docid, scores in given.items()},
            num_prompts=len(groups),
            num_malformed=sum(not judgment.is_ok for judgment in judgments),
            num_fallbacks=sum(not judgment.scores for judgment in judgments),
        )

    def _form(self, scores: Mapping[str, int]) -> str:
        """An answer with these scores."""
        return fenced(json.dumps(scores), self._words.answer.fence)

    def _groups(self, example: RankingExample, repeat: int) -> list[list[str]]:
        docids = list(example.docids)
        random.Random(f"{self.seed}:{example.qid}:{repeat}").shuffle(docids)
        return [docids[i : i + self.size] for i in range(0, len(docids), self.size)]


def _strict_pairs(text: str | None, max_score: int) -> list[tuple[int, float]] | None:
    """The (identifier, score) pairs of a JSON object in the asked form, repeats kept; None if it is not one."""
    if text is None:
        return None
    try:
        pairs: Any = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, list) or not text.startswith("{"):
        return None
    found: list[tuple[int, float]] = []
    for key, value in pairs:
        match = KEY.fullmatch(key)
        if match is None or type(value) is not int or not 0 <= value <= max_score:
            return None
        found.append((int(match[1]), float(value)))
    return found
