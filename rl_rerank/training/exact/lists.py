"""Lists of documents that are scored in one forward: training rows, and scores read from logits.

The paradigm's trait `list_scores` names one of two ways. `documents` uses one prompt per document; its score is the
difference of the logits of the paradigm's two continuations. `identifiers` uses one prompt for all documents; the
logit of the i-th continuation's last token is the i-th document's score, behind what all continuations begin with, such
as an opening bracket. With `documents`, a document may be split into passages, one prompt each, and its score is
computed from theirs as in ranking.
"""

# Shape legend: L lists, N documents (padded), D documents of all lists, P prompts of all lists, M labels.

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_rerank.config import ListTargets, LongDocumentsConfig
from rl_rerank.data.indexed import outlines
from rl_rerank.packed.head import Scored
from rl_rerank.packed.layout import Labelled, pack
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.paradigms.windows import training_window
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.prompts.token_ids import TokenIds
from rl_rerank.ranking.long_documents import View, view
from rl_rerank.training.exact.draws import Draw, Draws
from rl_rerank.training.exact.targets import target_counts, targeted
from rl_rerank.training.exact.weights import document_weights, padded
from rl_rerank.training.loop.collation import Collator
from rl_rerank.training.loop.curriculum import SIGNALS, require_signal
from rl_rerank.training.loop.on_index import OnIndex
from rl_rerank.training.loop.rows import IGNORED
from rl_rerank.types import Prompt, RankingExample


@dataclass(frozen=True)
class RankedList:
    """Some of a query's candidates with the prompts that show them."""

    example: RankingExample
    docids: tuple[str, ...]
    grades: tuple[float, ...]
    """Target of each document: a grade of at least 0, or a teacher's score."""
    prompts: tuple[Sequence[int], ...]
    """Token ids: one prompt per document or per passage, documents adjacent; or one for all."""
    answers: tuple[tuple[int, ...], ...]
    """Token ids of the correct answer to each prompt, with its end token."""
    weights: tuple[float, ...] | None = None
    """Weight of each document in a ranking loss; None: all 1."""
    signals: tuple[float, ...] | None = None
    """The first stage's signal of each document, for the weights of pairs; None: all 1."""
    passages: tuple[int, ...] | None = None
    """Number of prompts of each document that is split into passages; None: documents are not split."""


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
    targets: ListTargets | None = None,
    with_answers: bool = False,
    long_documents: LongDocumentsConfig | None = None,
) -> Lists:
    """Draw `count` lists in passes over the examples, each pass in a fresh order.

    A list has one document of the query's highest target and `size` - 1 of lower ones, redrawn in every pass. None
    takes all candidates, up to the number the paradigm shows at once. Their order is random if one prompt shows all.

    Args:
        targets: what documents are trained towards, and with what weights; None: their grades, with weights of 1.
        with_answers: whether the answers will be trained, so that each must be known.
        long_documents: how documents are cut, summarised or split; None: they are not. The correct answer about a
            passage is the one about its document.

    Raises:
        ValueError: if no query has candidates of different targets, or a document has none, or no weight.
    """
    settings, long = targets or ListTargets(), long_documents or LongDocumentsConfig()
    together = traits(paradigm).list_scores == "identifiers"
    draws = _draws(examples, settings, with_answers and not together, size, seed)
    _check_weights(examples, settings)
    most = len(paradigm.continuations) if together else None

    def made(number: int) -> RankedList:
        draw = draws[number]
        # All candidates are viewed, as in ranking: summaries weight words by what the other candidates say.
        seen = view(examples[draw.example], long)
        shown, ranked, values = targeted(examples[draw.example] if seen.owners else seen.example, settings)
        docids = _listed(ranked, draw, most, seed)
        asked = [docids] if together else [[docid] for docid in docids]
        prompts = [paradigm.prompt(shown, some) for some in asked]
        # An order of documents follows from any targets; whether one is relevant, from its judgment alone.
        labelled = ranked if together else shown
        answers = [(*renderer.continuation_ids(paradigm.target(labelled, p)), renderer.end_id) for p in prompts]
        passages = None
        if seen.owners:
            prompts, answers, passages = _split(seen, paradigm, docids, answers)
        return RankedList(
            shown,
            tuple(docids),
            tuple(values[docid] for docid in docids),
            tuple(TokenIds(prompt, renderer) for prompt in prompts),
            tuple(answers),
            None if settings.weights is None else document_weights(shown, docids, settings.weights),
            None if settings.curriculum is None else _signals(shown, docids, settings.curriculum.kind),
            passages,
        )

    return Lists(count, made, draws, most)


def _split(
    seen: View, paradigm: Paradigm, docids: Sequence[str], answers: Sequence[tuple[int, ...]]
) -> tuple[list[Prompt], list[tuple[int, ...]], tuple[int, ...]]:
    """Ask about every passage of documents alone: prompts, their correct answers, and each document's number of them.

    Args:
        answers: of the documents.
    """
    split = [seen.passages(docid) for docid in docids]
    prompts = [paradigm.prompt(seen.example, [passage]) for passages in split for passage in passages]
    spread = [answer for answer, passages in zip(answers, split, strict=True) for _ in passages]
    return prompts, spread, tuple(map(len, split))


def _draws(
    examples: Sequence[RankingExample], settings: ListTargets, needs_judgments: bool, size: int | None, seed: int
) -> Draws:
    draws = Draws(*target_counts(examples, settings, needs_judgments=needs_judgments), size=size, seed=seed)
    if not len(draws):
        raise ValueError(
            f"no training query has candidates of different {settings.target}, so a list has nothing to teach"
        )
    return draws


def _listed(example: RankingExample, draw: Draw, most: int | None, seed: int) -> list[str]:
    """Return the documents of a list.

    Args:
        most: documents that one prompt shows, in random order; None: each has a prompt of its own.
    """
    docids = list(example.docids) if draw.chosen is None else _chosen(example, *draw.chosen)
    if most is None:
        return docids
    rng = random.Random(f"{seed}:{draw.turn}:{example.qid}")
    return training_window(example, most, rng) if len(docids) > most else rng.sample(docids, len(docids))


def _check_weights(examples: Sequence[RankingExample], settings: ListTargets) -> None:
    """Refuse examples that lists would find no weights for, before the first list is made."""
    for example in outlines(examples) if settings.weights or settings.curriculum else ():
        shown = targeted(example, settings).shown
        if settings.weights is not None:
            document_weights(shown, shown.docids, settings.weights)
        if settings.curriculum is not None and shown.candidates:
            require_signal(shown, settings.curriculum.kind)


def _signals(example: RankingExample, docids: Sequence[str], kind: str) -> tuple[float, ...]:
    found = SIGNALS[kind](example)
    return tuple(found[docid] for docid in docids)


def _chosen(example: RankingExample, first: int, others: Sequence[int]) -> list[str]:
    """Return a document of the highest grade and some of lower ones, by their places among these."""
    gains = {docid: example.gain(docid) for docid in example.docids}
    best = max(gains.values())
    highest = [docid for docid in gains if gains[docid] == best]
    lower = [docid for docid in gains if gains[docid] < best]
    return [highest[first], *(lower[place] for place in others)]


class Share(NamedTuple):
    """A share of the probability."""

    mean: float
    prompts: int
    """What it is a mean over."""


@dataclass(frozen=True)
class Reading:
    """The tokens whose logits behind a prompt are scores."""

    ids: tuple[int, ...]
    together: bool
    """Whether one prompt shows all documents with one token each; else each has a prompt and a difference of two."""
    opening: tuple[int, ...] = ()
    """Tokens between a prompt and those that are read."""
    combine: Literal["", "maxp", "sump"] = ""
    """How a document's score comes from those of its passages; empty: documents are not split."""

    def sequences(self, one: RankedList) -> list[Labelled]:
        """Return each prompt of a list followed by each token that is read."""
        read = self.ids[: len(one.docids)] if self.together else self.ids
        shown = [[*prompt, *self.opening] for prompt in one.prompts]
        return [([*prompt, token], len(prompt)) for prompt in shown for token in read]

    def scores(self, labels: Scored, batch: Mapping[str, Any]) -> Tensor:
        """Read [L, N] scores from the labels of a batch's packed row; 0 for padding."""
        assert labels.logits is not None
        mask, read = batch["mask"], labels.logits[: batch["read"]]
        if not self.together:
            positive, negative = read.view(-1, 2).unbind(1)
            read = positive - negative
        if self.combine:
            read = combined(read, batch["owners"], int(mask.sum()), self.combine)
        return read.new_zeros(mask.shape).masked_scatter(mask, read)

    @torch.no_grad()
    def answer_share(self, labels: Scored, batch: Mapping[str, Any]) -> Share:
        """Compute the mean share of the probability behind prompt and opening that lies on the tokens that are read."""
        prompts = len(batch["mask"]) if self.together else batch["read"] // 2
        return Share(labels.log_probs[: batch["read"]].exp().sum().item() / prompts, prompts)


def combined(scores: Tensor, owners: Tensor, count: int, mode: Literal["maxp", "sump"]) -> Tensor:
    """Compute the scores of documents from the log-odds of their passages, as `long_documents.aggregate` does.

    Args:
        scores: [P].
        owners: [P], the document of each passage, from 0.
        count: D; every document has a passage.
        mode: maxp takes the largest log-odds, sump the sum of the probabilities.

    Returns:
        [D].
    """
    start = scores.new_zeros(count)
    if mode == "maxp":
        return start.scatter_reduce(0, owners, scores, "amax", include_self=False)
    return start.scatter_add(0, owners, scores.sigmoid())


def reading(paradigm: Paradigm, renderer: Renderer, long_documents: LongDocumentsConfig | None = None) -> Reading:
    """Find the tokens whose logits are the paradigm's scores.

    Raises:
        ValueError: if continuations differ in more than their last tokens, or two are the same.
    """
    ids = [renderer.continuation_ids(text) for text in paradigm.continuations]
    opening = tuple(_shared(ids))
    for text, tokens in zip(paradigm.continuations, ids, strict=True):
        if len(tokens) != len(opening) + 1 or ids.count(tokens) > 1:
            own = len(tokens) - len(opening)
            what = f"{own} tokens" if own != 1 else "the same token as another one"
            behind = f" behind {renderer.tokenizer.decode(opening)!r}" if opening else ""
            raise ValueError(
                f"scores of the paradigm {paradigm.name!r} are logits of single tokens, and in this tokenizer {text!r} "
                f"is {what}{behind}"
            )
    mode = long_documents.mode if long_documents is not None else "head"
    combine = mode if mode in ("maxp", "sump") else ""
    return Reading(tuple(tokens[-1] for tokens in ids), traits(paradigm).list_scores == "identifiers", opening, combine)


def _shared(ids: Sequence[Sequence[int]]) -> Iterator[int]:
    """The tokens that all begin with, of which none is the last of one."""
    for tokens in zip(*(one[:-1] for one in ids), strict=False):
        if len({*tokens}) > 1:
            return
        yield tokens[0]


@dataclass(frozen=True)
class ListItem:
    """A list, rendered."""

    number: int
    read: Sequence[Labelled]
    answers: Sequence[Labelled]
    grades: tuple[float, ...]
    weights: tuple[float, ...] | None
    signals: tuple[float, ...] | None
    passages: tuple[int, ...] | None

    @property
    def sequences(self) -> list[Labelled]:
        return [*self.read, *self.answers]


def _owners(items: Sequence[ListItem]) -> Tensor | None:
    """Number the documents of a batch from 0 and give the one of each passage: [P]; None if they are not split."""
    counts = [count for one in items for count in one.passages or ()]
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)) if counts else None


class ListCollator(Collator[ListItem]):
    """Collates batches of lists.

    Args:
        with_answers: add the correct answers and their end tokens as labels, behind those that are read.
    """

    def __init__(self, of: Sequence[RankedList], reading: Reading, *, with_answers: bool) -> None:
        self.lists = of
        self.reading = reading
        self.with_answers = with_answers

    def item(self, number: int) -> ListItem:
        one = self.lists[number]
        shown = zip(one.prompts, one.answers, strict=True) if self.with_answers else ()
        answers = [([*prompt, *answer], len(prompt)) for prompt, answer in shown]
        read = self.reading.sequences(one)
        return ListItem(number, read, answers, one.grades, one.weights, one.signals, one.passages)

    def batch(self, items: Sequence[ListItem]) -> dict[str, Any]:
        read = [sequence for one in items for sequence in one.read]
        answers = [sequence for one in items for sequence in one.answers]
        sizes = [len(one.grades) for one in items]
        return {
            "packed": pack([*read, *answers]),
            "read": len(read),
            "grades": torch.tensor([[*one.grades, *[0.0] * (max(sizes) - len(one.grades))] for one in items]),
            "mask": torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1),
            "index": [one.number for one in items],
            "item_weights": padded([one.weights for one in items]),
            "signals": padded([one.signals for one in items]),
            "owners": _owners(items),
        }

    def labels(self, items: Sequence[ListItem]) -> Tensor | None:
        if not self.with_answers:
            return None
        return torch.tensor([IGNORED, *(token for one in items for ids, first in one.answers for token in ids[first:])])
