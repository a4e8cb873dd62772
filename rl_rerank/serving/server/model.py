"""The model behind the server: examples in, answers out, in the one thread that owns the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rl_rerank.config import LongDocumentsConfig
from rl_rerank.engines.base import Engine
from rl_rerank.evaluation.cost import cost
from rl_rerank.io import digest
from rl_rerank.paradigms.base import Paradigm, members, traits
from rl_rerank.paradigms.ordering import model_scores
from rl_rerank.ranking.driver import check_finite, num_lost
from rl_rerank.serving.scores import rank
from rl_rerank.serving.server.schemas import Document
from rl_rerank.types import Candidate, Ranking, RankingExample, Rollout

LOG_ODDS = "log_odds"


class Thought(NamedTuple):
    """What the model wrote before an answer."""

    documents: tuple[int, ...]
    """Indices of the documents behind identifiers 1, 2, ... of the prompt."""
    text: str


@dataclass(frozen=True)
class Answer:
    """The ranking of one example's documents."""

    order: tuple[int, ...]
    """Indices of documents, best first; equal scores in the given order."""
    scores: tuple[float, ...]
    """By index: the model's own, ties included. Of a model that gives an order only, n for the best of n to 1."""
    scale: str
    """log_odds, points, relative or order."""
    thoughts: tuple[Thought, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    warnings: tuple[str, ...]


def example(query: str, documents: Sequence[Document], instruction: str = "") -> RankingExample:
    """Make the example of one request; equal documents differ by index.

    Its qid is the digest of its content, so that a request has the same answer alone and among others, also where a
    paradigm draws groups by the qid.
    """
    qid = digest.of_json([query, instruction, documents])
    candidates = tuple(
        Candidate(docid=str(i), text=document.text, title=document.title, rank=i + 1)
        for i, document in enumerate(documents)
    )
    return RankingExample(qid=qid, query=query, candidates=candidates, instruction=instruction)


class Model:
    """Ranks the examples of many requests together.

    Attributes:
        scale: the scale of scores that stand for themselves; empty if the model gives none.
    """

    def __init__(self, paradigm: Paradigm, engine: Engine, how: LongDocumentsConfig) -> None:
        """
        Args:
            how: how long documents are cut or split.
        """
        self.paradigm = paradigm
        self.engine = engine
        self.how = how
        self.scale = traits(paradigm).score_scale

    def __call__(self, examples: Sequence[RankingExample]) -> list[Answer]:
        """Rank every example; equal ones once.

        Raises:
            ValueError: if a query leaves no room for documents.
            ArithmeticError: if no answer to an example has finite log-probabilities.
        """
        distinct = {example.qid: example for example in examples}
        rankings, rollouts = rank(list(distinct.values()), self.paradigm, self.engine, self.how)
        asked: dict[str, list[Rollout]] = {qid: [] for qid in distinct}
        for rollout in rollouts:
            asked[rollout.prompt.qid].append(rollout)
        found = {r.qid: self._answer(distinct[r.qid], r, asked[r.qid]) for r in rankings}
        return [found[example.qid] for example in examples]

    def _answer(self, example: RankingExample, ranking: Ranking, rollouts: Sequence[Rollout]) -> Answer:
        try:
            check_finite(rollouts)
        except ValueError as e:
            raise ArithmeticError(str(e)) from None
        scores = model_scores(example, ranking)
        spent = cost([ranking], rollouts, self.engine, 0.0)
        return Answer(
            order=tuple(map(int, ranking.docids)),
            scores=tuple(scores[docid] for docid in example.docids),
            scale="order" if ranking.raw_scores is None else self.scale or "relative",
            thoughts=tuple(thought for r in rollouts if (thought := self._thought(r)) is not None),
            prompt_tokens=spent.prompt_tokens,
            completion_tokens=spent.completion_tokens,
            warnings=tuple(_warnings(ranking, rollouts)),
        )

    def _thought(self, rollout: Rollout) -> Thought | None:
        own = traits(members(self.paradigm).get(rollout.prompt.paradigm, self.paradigm))
        if not own.reasoning or rollout.completion.continuations is not None:
            return None
        text = rollout.completion.text
        # A completion that was cut inside its thought is nothing else.
        before, closing, _ = text.rpartition(own.tags.think_end)
        said = (before if closing else text).strip().removeprefix(own.tags.think_open).strip()
        return Thought(tuple(map(int, rollout.prompt.docids)), said)


def _warnings(ranking: Ranking, rollouts: Sequence[Rollout]) -> list[str]:
    found: list[str] = []
    if ranking.num_fallbacks:
        found.append(
            f"{ranking.num_fallbacks} of {ranking.num_prompts} answers could not be used: their documents kept the "
            "given order, or took scores from their neighbours in it"
        )
    if lost := num_lost(rollouts):
        found.append(f"log-probabilities of {lost} of {len(rollouts)} answers are not finite")
    return found
