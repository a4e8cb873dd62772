"""A listwise softmax loss on the logits of a pointwise paradigm.

The loss of a list is the cross-entropy between the softmax of its scores and its grades as a distribution:
-sum_i g_i / (sum_j g_j) * log softmax(s)_i, with s = log p(positive) - log p(negative).

It sees differences between documents only. Alone, it lets p(positive) drift to 0 or 1 for all of them, and the model
forgets how an answer ends: what a policy then samples is useless. Against both, `answer_weight` times the mean
cross-entropy of the right answers and their end tokens is added.

Sources: ListNet's top-one loss, Cao et al. 2007, https://doi.org/10.1145/1273496.1273513; a ranking loss and a language
model's together as in FIRST, Reddy et al. 2024, https://arxiv.org/abs/2406.15657
"""

# Shape legend: L lists, D documents of a list, T tokens, V vocabulary.

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import Trainer

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.rendering import Renderer
from rl_rerank.types import RankingExample


def lists(
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    *,
    count: int,
    size: int | None,
    seed: int,
) -> Dataset:
    """`count` rows of `input_ids`, every document's prompt with the token of the right answer, and `grades`.

    Passes over the examples in a fresh order. A list is one document of the query's highest grade and `size` - 1 of
    lower grades, drawn anew in every pass; None takes all candidates.

    Raises:
        ValueError: if no query has candidates of different grades.
    """
    gains = {e.qid: {docid: max(e.qrels.get(docid, 0), 0) for docid in e.docids} for e in examples}
    usable = [example for example in examples if len(set(gains[example.qid].values())) > 1]
    if not usable:
        raise ValueError(
            "no training query has candidates of different grades, so the softmax loss has nothing to learn"
        )
    input_ids, grades = [], []
    for turn in range(-(-count // len(usable))):
        rng = random.Random(f"{seed}:{turn}")
        for example in rng.sample(usable, len(usable)):
            gain = gains[example.qid]
            docids = list(example.docids) if size is None else _drawn(gain, size, rng)
            prompts = [paradigm.prompt(example, [docid]) for docid in docids]
            answers = [renderer.continuation_ids(paradigm.target(example, prompt)) for prompt in prompts]
            input_ids.append(
                [[*renderer(prompt).token_ids, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
            )
            grades.append([float(gain[docid]) for docid in docids])
            if len(grades) == count:
                break
    return Dataset.from_dict({"input_ids": input_ids, "grades": grades})


def _drawn(gain: dict[str, int], size: int, rng: random.Random) -> list[str]:
    best = max(gain.values())
    lower = [docid for docid in gain if gain[docid] < best]
    chosen = rng.choice([docid for docid in gain if gain[docid] == best])
    return [chosen, *rng.sample(lower, min(size - 1, len(lower)))]


class SoftmaxTrainer(Trainer):
    """Trains scores, and the answers that go with them: one forward a document, the ranking loss over each list."""

    def __init__(
        self, *, positive_id: int, negative_id: int, end_id: int, pad_id: int, answer_weight: float, **kwargs: Any
    ) -> None:
        super().__init__(data_collator=_Collator(pad_id), **kwargs)
        self.positive_id = positive_id
        self.negative_id = negative_id
        self.end_id = end_id
        self.answer_weight = answer_weight

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        input_ids, mask = inputs["input_ids"], inputs["attention_mask"]
        logits = model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=2,  # rows are padded on the left: the last two predict the answer and its end for all
            use_cache=False,
        ).logits.float()  # [L*D, 2, V]
        scores = logits[:, 0, self.positive_id] - logits[:, 0, self.negative_id]
        ranking = softmax_loss(scores, inputs["grades"], inputs["sizes"])
        answers = input_ids[:, -1]
        targets = torch.stack([answers, torch.full_like(answers, self.end_id)], dim=1)  # [L*D, 2]
        answering = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss = ranking + self.answer_weight * answering
        return (loss, None) if return_outputs else loss


def softmax_loss(scores: Tensor, grades: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mean over lists of the top-one cross-entropy.

    Args:
        scores: [sum of sizes], the lists' scores one after another.
        grades: [sum of sizes], >= 0, at least one above 0 in every list.
        sizes: documents of each list.
    """
    losses = [
        -(grade / grade.sum() * torch.log_softmax(score, dim=0)).sum()
        for score, grade in zip(scores.split(list(sizes)), grades.split(list(sizes)), strict=True)
    ]
    return torch.stack(losses).mean()


class _Collator:
    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        documents = [torch.tensor(ids) for row in rows for ids in row["input_ids"]]
        ones = [torch.ones_like(document) for document in documents]
        return {
            "input_ids": _left_padded(documents, self.pad_id),
            "attention_mask": _left_padded(ones, 0),
            "grades": torch.tensor([grade for row in rows for grade in row["grades"]]),
            "sizes": [len(row["grades"]) for row in rows],
        }


def _left_padded(rows: list[Tensor], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")
