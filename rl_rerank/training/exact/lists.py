"""Lists of documents that are scored in one forward: training rows, and scores read from logits.

The paradigm's trait `list_scores` names one of two ways. `documents` uses one prompt per document; its score is the
difference of the logits of the paradigm's two continuations. `identifiers` uses one prompt for all documents; the
logit of the i-th continuation is the i-th document's score.
"""

# Shape legend: L lists, N documents (padded), M labels.

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_rerank.data.indexed import grade_counts
from rl_rerank.packed.head import Scored
from rl_rerank.packed.layout import Labelled, pack
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.paradigms.windows import training_window
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.prompts.token_ids import TokenIds
from rl_rerank.training.exact.draws import Draws
from rl_rerank.training.loop.on_index import OnIndex
from rl_rerank.types import RankingExample


@dataclass(frozen=True)
class RankedList:
    """Some of a query's candidates with the prompts that show them."""

    example: RankingExample
    docids: tuple[str, ...]
    grades: tuple[float, ...]
    """Grade of each document, at least 0."""
    prompts: tuple[Sequence[int], ...]
    """Token ids: one prompt per document, or one for all."""
    answers: tuple[tuple[int, ...], ...]
    """Token ids of the correct answer to each prompt, with its end token."""


class Lists(OnIndex[RankedList]):
    """Training lists, each made when it is asked for; its prompts are rendered when their tokens are."""

    def __init__(self, count: int, make: Callable[[int], RankedList], draws: Draws, most: int | None) -> None:
        super().__init__(count, make)
        self._draws = draws
        self._most = most

    def num_documents(self) -> NDArray[np.int64]:
        """Count the documents of each list, without making it: [L]."""
        found = self._draws.num_documents(len(self))
        return found if self._most is None else np.minimum(found, self._most)


def lists(
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    *,
    count: int,
    size: int | None,
    seed: int,
) -> Lists:
    """Draw `count` lists in passes over the examples, each pass in a fresh order.

    A list has one document of the query's highest grade and `size` - 1 of lower grades, redrawn in every pass. None
    takes all candidates, up to the number the paradigm shows at once. Their order is random if one prompt shows all.

    Raises:
        ValueError: if no query has candidates of different grades.
    """
    draws = Draws(*grade_counts(examples), size=size, seed=seed)
    if not len(draws):
        raise ValueError("no training query has candidates of different grades, so a list has nothing to teach")
    together = traits(paradigm).list_scores == "identifiers"
    most = len(paradigm.continuations)

    def made(number: int) -> RankedList:
        draw = draws[number]
        example = examples[draw.example]
        docids = list(example.docids) if draw.chosen is None else _chosen(example, *draw.chosen)
        if together:
            own = random.Random(f"{seed}:{draw.turn}:{example.qid}")
            docids = training_window(example, most, own) if len(docids) > most else own.sample(docids, len(docids))
        asked = [docids] if together else [[docid] for docid in docids]
        prompts = [paradigm.prompt(example, shown) for shown in asked]
        answers = [(*renderer.continuation_ids(paradigm.target(example, p)), renderer.end_id) for p in prompts]
        grades = tuple(float(example.gain(docid)) for docid in docids)
        token_ids = tuple(TokenIds(prompt, renderer) for prompt in prompts)
        return RankedList(example, tuple(docids), grades, token_ids, tuple(answers))

    return Lists(count, made, draws, most if together else None)


def _chosen(example: RankingExample, first: int, others: Sequence[int]) -> list[str]:
    """Return a document of the highest grade and some of lower ones, by their places among these."""
    gains = {docid: example.gain(docid) for docid in example.docids}
    best = max(gains.values())
    highest = [docid for docid in gains if gains[docid] == best]
    lower = [docid for docid in gains if gains[docid] < best]
    return [highest[first], *(lower[place] for place in others)]


@dataclass(frozen=True)
class Reading:
    """The tokens whose logits behind a prompt are scores."""

    ids: tuple[int, ...]
    together: bool
    """Whether one prompt shows all documents with one token each; else each has a prompt and a difference of two."""

    def sequences(self, one: RankedList) -> list[Labelled]:
        """Return each prompt of a list followed by each token that is read."""
        read = self.ids[: len(one.docids)] if self.together else self.ids
        return [([*prompt, token], len(prompt)) for prompt in one.prompts for token in read]

    def scores(self, labels: Scored, batch: Mapping[str, Any]) -> Tensor:
        """Read [L, N] scores from the labels of a batch's packed row; 0 for padding."""
        mask, read = batch["mask"], labels.logits[: batch["read"]]
        if not self.together:
            positive, negative = read.view(-1, 2).unbind(1)
            read = positive - negative
        return read.new_zeros(mask.shape).masked_scatter(mask, read)

    @torch.no_grad()
    def answer_share(self, labels: Scored, batch: Mapping[str, Any]) -> float:
        """Compute the mean share of the probability behind a prompt that lies on the tokens that are read."""
        prompts = len(batch["mask"]) if self.together else batch["read"] // 2
        return labels.log_probs[: batch["read"]].exp().sum().item() / prompts


def reading(paradigm: Paradigm, renderer: Renderer) -> Reading:
    """Find the tokens whose logits are the paradigm's scores.

    Raises:
        ValueError: if a continuation has several tokens, or two continuations are the same token.
    """
    ids = [renderer.continuation_ids(text) for text in paradigm.continuations]
    for text, tokens in zip(paradigm.continuations, ids, strict=True):
        if len(tokens) != 1 or ids.count(tokens) > 1:
            what = f"{len(tokens)} tokens" if len(tokens) != 1 else "the same token as another one"
            raise ValueError(
                f"scores of the paradigm {paradigm.name!r} are logits of single tokens, and in this tokenizer {text!r} "
                f"is {what}"
            )
    return Reading(tuple(token for [token] in ids), traits(paradigm).list_scores == "identifiers")


class ListCollator:
    """Collates batches of lists, given by their `index` in the dataset.

    Args:
        with_answers: add the correct answers and their end tokens as labels, behind those that are read.
    """

    def __init__(self, of: Sequence[RankedList], reading: Reading, *, with_answers: bool) -> None:
        self.lists = of
        self.reading = reading
        self.with_answers = with_answers

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        chosen = [self.lists[row["index"]] for row in rows]
        read = [sequence for one in chosen for sequence in self.reading.sequences(one)]
        answers = [
            ([*prompt, *answer], len(prompt))
            for one in chosen
            for prompt, answer in zip(one.prompts, one.answers, strict=True)
        ]
        sizes = [len(one.docids) for one in chosen]
        return {
            "packed": pack([*read, *answers] if self.with_answers else read),
            "read": len(read),
            "grades": torch.tensor([[*one.grades, *[0.0] * (max(sizes) - len(one.grades))] for one in chosen]),
            "mask": torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1),
            "index": [row["index"] for row in rows],
        }
