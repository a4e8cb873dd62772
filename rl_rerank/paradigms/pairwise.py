"""Pairwise: two documents a prompt, answered with the better one's letter; every pair is shown in both orders.

    system  Which of the two passages is more relevant to the query?
    user    Query: how are glacier caves formed?
            [A] The ice facade is approximately 60 m high.
            [B] A glacier cave is a cave formed within the ice of a glacier.
            Answer A or B.
    answer  B

A document wins a comparison if it is preferred in both orders. If the two answers disagree, it is a tie, and sorting
keeps the shown order. After pairwise ranking prompting, Qin et al. 2023, https://arxiv.org/abs/2306.17563. With
decision=mean the mean of its probabilities in both orders decides: a preference for A or B cancels out, and a model
that always says A still ranks. sym_sum is the aggregation of duoT5, Pradeep et al. 2021,
https://arxiv.org/abs/2101.05667. sum, binary, min and max are those of duoBERT, Nogueira et al. 2019,
https://arxiv.org/abs/1910.14424, from the same prompts; one_order asks about each pair once, as shown, for half of the
prompts, and depends on the order shown.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from math import fsum
from typing import Any

import numpy as np

from rl_rerank.metrics.bradley_terry import strengths
from rl_rerank.paradigms.answers import thought, written
from rl_rerank.paradigms.base import Strategy
from rl_rerank.paradigms.labels import LETTERS, choice
from rl_rerank.paradigms.options import check_mode, one_of
from rl_rerank.paradigms.ordering import Counts, rank_by_scores, rank_top
from rl_rerank.paradigms.preferences import AGGREGATIONS, preferred
from rl_rerank.paradigms.sorting import Asking, bubble_top, heap_top
from rl_rerank.paradigms.wordings import words_of
from rl_rerank.prompts.tags import Tags
from rl_rerank.prompts.wordings.wording import Wording
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample


@dataclass(frozen=True)
class Pairwise:
    method: str = "allpairs"
    """allpairs: N(N-1) prompts in one round; heapsort; or sliding: passes over adjacent pairs from the back."""
    mode: str = "generation"
    """generation: the answer is written; scoring: the log-probabilities of A and B at the answer position decide."""
    decision: str = "agreement"
    """agreement: a document wins if both orders prefer it, and otherwise there is a tie. mean, for mode=scoring: it
    wins if (p_ij + 1 - p_ji) / 2 is above 1/2, where p_ij is its probability in the prompt that shows it before j."""
    aggregation: str = "wins"
    """allpairs: wins counts 1 for a won comparison and 1/2 for a tie. For mode=scoring, whatever the decision: sym_sum
    gives document i the sum over all j of p_ij + 1 - p_ji; bradley_terry gives it the log strength that explains these
    probabilities, so that of two documents the difference is the log-odds that the first is preferred. sum, binary,
    min, max and one_order are duoBERT's: rl_rerank/paradigms/preferences.py."""
    k: int | None = 10
    """heapsort and sliding: ranks that are settled, below which the shown order stays; None: all."""
    pairs: int = 1
    """Training: pairs of different grades for each query."""
    reasoning: bool = False
    think_tokens: int = 256
    """With reasoning: tokens that the reasoning may take."""
    wording: str | Mapping[str, Any] | None = None
    """The words of the prompts: a name, a file or its content; None: the paradigm's own. `make` sets what follows."""

    name = "pairwise"

    def __post_init__(self) -> None:
        one_of("pairwise: method", self.method, ("allpairs", "heapsort", "sliding"))
        one_of("pairwise: decision", self.decision, ("agreement", "mean"))
        one_of("pairwise: aggregation", self.aggregation, ("wins", "sym_sum", "bradley_terry", *AGGREGATIONS))
        check_mode(self.name, self.mode, reasoning=self.reasoning)
        if self.decision == "mean" and self.mode != "scoring":
            raise ValueError(
                f"pairwise: decision=mean takes a mean of probabilities, so it needs mode=scoring; got mode={self.mode}"
            )
        if self.aggregation != "wins" and (self.method, self.mode) != ("allpairs", "scoring"):
            raise ValueError(
                f"pairwise: aggregation={self.aggregation} needs the probabilities of all pairs, so method=allpairs "
                f"and mode=scoring; got method={self.method} and mode={self.mode}"
            )
        if self.k is not None and self.k < 1:
            raise ValueError(f"pairwise: k must be at least 1, or null for all ranks; got {self.k}")
        if self.pairs < 1:
            raise ValueError(f"pairwise: pairs must be at least 1; got {self.pairs}")
        _ = self._words  # A wording that cannot be used is refused now.

    @cached_property
    def _words(self) -> Wording:
        return words_of(self.name, self.wording)

    @property
    def tags(self) -> Tags:
        return self._words.answer.tags

    @property
    def prompts_per_query(self) -> int:
        return self.pairs

    @property
    def score_scale(self) -> str:
        return "log_odds" if self.aggregation == "bradley_terry" else ""

    @property
    def continuations(self) -> tuple[str, ...]:
        return LETTERS.answers(2) if self.mode == "scoring" else ()

    @property
    def max_completion_tokens(self) -> int:
        # At most a token a character, and the end token.
        whole = written("A", reasoning=self.reasoning, tags=self.tags)
        return len(whole) + 1 + (self.think_tokens if self.reasoning else 0)

    def choices(self, prompt: Prompt) -> tuple[str, ...]:
        return LETTERS.answers(2)

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        if len(docids) != 2:
            raise ValueError(f"pairwise: a prompt compares 2 documents; got {len(docids)}")
        return self._words.prompt(example, docids, reasoning=self.reasoning, name=LETTERS.name)

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        gains = {docid: example.gain(docid) for docid in example.docids}
        telling = [pair for pair in combinations(example.docids, 2) if gains[pair[0]] != gains[pair[1]]]
        chosen = rng.sample(telling, min(self.pairs, len(telling)))
        return [self.prompt(example, rng.sample(pair, 2)) for pair in chosen]

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        first, second = (example.qrels.get(docid, 0) for docid in prompt.docids)
        reason = thought(example, prompt.docids, LETTERS.name) if self.reasoning else ""
        letter = LETTERS.answer(1 if first >= second else 2)
        return written(letter, reasoning=self.reasoning, thought=reason, tags=self.tags)

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        return choice(prompt, completion, LETTERS, reasoning=self.reasoning, strict=strict, tags=self.tags)

    def strategy(self, example: RankingExample) -> Strategy:
        counts = Counts()
        if self.aggregation in AGGREGATIONS:
            return (yield from preferred(example, self.prompt, self.aggregation, counts))
        if self.method == "allpairs":
            return (yield from self._all_pairs(example, counts))
        k = len(example.docids) if self.k is None else self.k
        best = partial(self._best, example, counts)
        if self.method == "heapsort":
            top = yield from heap_top(example.docids, k, 2, best)
        else:
            top = yield from bubble_top(example.docids, k, 1, best)
        return rank_top(example, top, counts)

    def _all_pairs(self, example: RankingExample, counts: Counts) -> Strategy:
        pairs = list(combinations(example.docids, 2))
        judgments = yield [self.prompt(example, shown) for a, b in pairs for shown in ((a, b), (b, a))]
        counts.add(judgments)
        won: dict[tuple[str, str], float] = {}
        for (a, b), first, second in zip(pairs, judgments[::2], judgments[1::2], strict=True):
            outcome = self._outcome(a, b, first, second, counts)
            won[a, b] = outcome if self.aggregation == "wins" else 2 * _mean(a, first, second)
            won[b, a] = (1.0 if self.aggregation == "wins" else 2.0) - won[a, b]
        if self.aggregation == "bradley_terry":
            n = len(example.docids)
            wins = np.array([won.get((a, b), 0.0) for a in example.docids for b in example.docids]).reshape(n, n)
            scores = dict(zip(example.docids, strengths(wins).tolist(), strict=True))
        else:
            scores = {a: fsum(won[a, b] for b in example.docids if b != a) for a in example.docids}
        return rank_by_scores(example, scores, **vars(counts))

    def _best(self, example: RankingExample, counts: Counts, docids: Sequence[str]) -> Asking:
        best = docids[0]
        for other in docids[1:]:
            first, second = yield [self.prompt(example, shown) for shown in ((other, best), (best, other))]
            counts.add((first, second))
            if self._outcome(other, best, first, second, counts) == 1.0:
                best = other
        return best

    def _outcome(self, a: str, b: str, first: Judgment, second: Judgment, counts: Counts) -> float:
        """1 if `a` wins, 0 if `b` does, otherwise 1/2: a tie, or an answer that cannot be used."""
        margins = [judgment.scores[a] - judgment.scores[b] for judgment in (first, second) if judgment.scores]
        if len(margins) < 2:
            return 0.5
        agreed = 1.0 if min(margins) > 0 else 0.0 if max(margins) < 0 else 0.5
        counts.num_ties += agreed == 0.5
        if self.decision == "agreement":
            return agreed
        mean = sum(margins)
        return 1.0 if mean > 0 else 0.0 if mean < 0 else 0.5


def _mean(a: str, first: Judgment, second: Judgment) -> float:
    """The mean of the probabilities of `a` in both orders; 1/2 stands for one that cannot be used."""
    return (first.scores.get(a, 0.5) + second.scores.get(a, 0.5)) / 2
