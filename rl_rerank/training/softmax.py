"""A listwise softmax loss on the logits of a pointwise paradigm.

The loss of a list is the cross-entropy between the softmax of its scores and its grades as a distribution:
-sum_i g_i / (sum_j g_j) * log softmax(s)_i, with s = log p(positive) - log p(negative).

Source: ListNet's top-one loss, Cao et al. 2007, https://doi.org/10.1145/1273496.1273513
"""

# Shape legend: L lists, D documents of a list, T tokens.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import Trainer

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.rendering import Renderer
from rl_rerank.types import RankingExample


def lists(examples: Sequence[RankingExample], paradigm: Paradigm, renderer: Renderer) -> Dataset:
    """One row a query with candidates of different grades: `input_ids` of every document's prompt, and `grades`."""
    input_ids, grades = [], []
    for example in examples:
        gains = [max(example.qrels.get(docid, 0), 0) for docid in example.docids]
        if len(set(gains)) < 2:
            continue
        input_ids.append([list(renderer(paradigm.prompt(example, [docid])).token_ids) for docid in example.docids])
        grades.append([float(gain) for gain in gains])
    if not input_ids:
        raise ValueError(
            "no training query has candidates of different grades, so the softmax loss has nothing to learn"
        )
    return Dataset.from_dict({"input_ids": input_ids, "grades": grades})


class SoftmaxTrainer(Trainer):
    """Trains scores, not text: one forward a document, the loss over each list."""

    def __init__(self, *, positive_id: int, negative_id: int, pad_id: int, **kwargs: Any) -> None:
        super().__init__(data_collator=_Collator(pad_id), **kwargs)
        self.positive_id = positive_id
        self.negative_id = negative_id

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        mask = inputs["attention_mask"]
        logits = (
            model(
                input_ids=inputs["input_ids"],
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                logits_to_keep=1,  # the prompts are padded on the left, so the answer position is the last for all
                use_cache=False,
            )
            .logits[:, -1]
            .float()
        )  # [L*D, V]
        scores = logits[:, self.positive_id] - logits[:, self.negative_id]
        loss = softmax_loss(scores, inputs["grades"], inputs["sizes"])
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
