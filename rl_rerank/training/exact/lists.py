"""Lists of documents that are scored in one forward: training rows, and scores read from logits.

The paradigm's trait `list_scores` names one of two ways. `documents` uses one prompt per document; its score is the
difference of the logits of the paradigm's two continuations. `identifiers` uses one prompt for all documents; the
logit of the i-th continuation is the i-th document's score.
"""

# Shape legend: L lists, N documents (padded), R rows, T tokens, K last positions, V vocabulary.

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rl_rerank.engines.local.prefill import left_padded
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.paradigms.windows import training_window
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.loop.rows import IGNORED
from rl_rerank.types import RankingExample


@dataclass(frozen=True)
class RankedList:
    """Some of a query's candidates with the prompts that show them."""

    example: RankingExample
    docids: tuple[str, ...]
    grades: tuple[float, ...]
    """Grade of each document, at least 0."""
    prompts: tuple[tuple[int, ...], ...]
    """Token ids: one prompt per document, or one for all."""
    answers: tuple[tuple[int, ...], ...]
    """Token ids of the correct answer to each prompt, with its end token."""


def lists(
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    *,
    count: int,
    size: int | None,
    seed: int,
) -> list[RankedList]:
    """Draw `count` lists in passes over the examples, each pass in a fresh order.

    A list has one document of the query's highest grade and `size` - 1 of lower grades, redrawn in every pass. None
    takes all candidates, up to the number the paradigm shows at once. Their order is random if one prompt shows all.

    Raises:
        ValueError: if no query has candidates of different grades.
    """
    gains = {e.qid: {docid: e.gain(docid) for docid in e.docids} for e in examples}
    usable = [example for example in examples if len(set(gains[example.qid].values())) > 1]
    if not usable:
        raise ValueError("no training query has candidates of different grades, so a list has nothing to teach")
    together = traits(paradigm).list_scores == "identifiers"
    found: list[RankedList] = []
    for turn in range(-(-count // len(usable))):
        rng = random.Random(f"{seed}:{turn}")
        for example in rng.sample(usable, len(usable))[: count - len(found)]:
            gain = gains[example.qid]
            docids = list(example.docids) if size is None else _drawn(gain, size, rng)
            if together:
                own = random.Random(f"{seed}:{turn}:{example.qid}")
                most = len(paradigm.continuations)
                docids = training_window(example, most, own) if len(docids) > most else own.sample(docids, len(docids))
            asked = [docids] if together else [[docid] for docid in docids]
            prompts = [paradigm.prompt(example, shown) for shown in asked]
            answers = [(*renderer.continuation_ids(paradigm.target(example, p)), renderer.end_id) for p in prompts]
            token_ids = tuple(renderer(prompt).token_ids for prompt in prompts)
            grades = tuple(float(gain[docid]) for docid in docids)
            found.append(RankedList(example, tuple(docids), grades, token_ids, tuple(answers)))
    return found


def _drawn(gain: Mapping[str, int], size: int, rng: random.Random) -> list[str]:
    best = max(gain.values())
    lower = [docid for docid in gain if gain[docid] < best]
    chosen = rng.choice([docid for docid in gain if gain[docid] == best])
    return [chosen, *rng.sample(lower, min(size - 1, len(lower)))]


@dataclass(frozen=True)
class Reading:
    """The tokens whose logits at the answer position are scores."""

    ids: tuple[int, ...]
    together: bool
    """Whether one prompt shows all documents with one token each; else each has a prompt and a difference of two."""

    def scores(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Read [L, N] scores from [R, K, V] logits; 0 for padding."""
        mask = batch["mask"]
        at = _at_answers(logits, batch)
        if self.together:
            return at[:, list(self.ids[: mask.size(1)])].masked_fill(~mask, 0.0)
        positive, negative = self.ids
        return logits.new_zeros(mask.shape).masked_scatter(mask, at[:, positive] - at[:, negative])

    @torch.no_grad()
    def answer_share(self, logits: Tensor, batch: Mapping[str, Any]) -> float:
        """Compute the mean share of the probability at the answer position that lies on the tokens that are read."""
        shares = _at_answers(logits, batch).softmax(1)[:, list(self.ids)]  # [R, answers]
        if self.together:
            mask = batch["mask"]
            shares = shares[:, : mask.size(1)] * mask
        return shares.sum(1).mean().item()


def _at_answers(logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Pick the [R, V] logits of each row's answer position."""
    return logits[torch.arange(len(logits), device=logits.device), batch["places"]]


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
        with_answers: add the correct answers to rows, and their tokens as `answers`; else rows end before the answer.
    """

    def __init__(self, of: Sequence[RankedList], pad_id: int, *, with_answers: bool) -> None:
        self.lists = of
        self.pad_id = pad_id
        self.with_answers = with_answers

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        chosen = [self.lists[row["index"]] for row in rows]
        pairs = [pair for one in chosen for pair in zip(one.prompts, one.answers, strict=True)]
        answers = [answer if self.with_answers else answer[:1] for _, answer in pairs]
        # The last token of an answer is predicted and not read.
        inputs = [[*prompt, *answer[:-1]] for (prompt, _), answer in zip(pairs, answers, strict=True)]
        ids, attention, _ = left_padded(inputs, self.pad_id)
        longest = max(map(len, answers))
        sizes = [len(one.docids) for one in chosen]
        return {
            "input_ids": ids,
            "attention_mask": attention,
            "answers": torch.tensor([[IGNORED] * (longest - len(a)) + list(a) for a in answers]),
            "places": torch.tensor([longest - len(answer) for answer in answers]),
            "grades": torch.tensor([[*one.grades, *[0.0] * (max(sizes) - len(one.grades))] for one in chosen]),
            "mask": torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1),
            "index": [row["index"] for row in rows],
        }


def last_logits(model: nn.Module, batch: Mapping[str, Any], positions: int) -> Tensor:
    """Compute the [R, positions, V] float32 logits at the last positions of left-padded rows."""
    mask = batch["attention_mask"]
    return model(
        input_ids=batch["input_ids"],
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=positions,
        use_cache=False,
    ).logits.float()
