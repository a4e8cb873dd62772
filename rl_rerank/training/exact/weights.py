"""Weights of documents and pairs in ranking losses, from the data: a feature, and the first stage's signal.

The weight of a pair of a better document i and a worse one j in step t is W = D + (t / m)(1 - D), with its ease
D = (h_i - h_j + 1) / 2 by the first stage's signal h. In pointwise losses that of a document is the same with the ease
D = h if it is relevant, and 1 - h if not. Training Curricula for Open Domain Answer Re-Ranking,
https://arxiv.org/abs/2004.14269; `rl_rerank/training/loop/curriculum.py` has the signals.
"""

# Shape legend: L lists, N documents (padded).

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl_rerank.config import CurriculumConfig, WeightsConfig
from rl_rerank.training.loop.curriculum import weight
from rl_rerank.training.losses.base import RankingLoss, better
from rl_rerank.types import RankingExample

WEIGHT = "curriculum/weight"
"""In metrics.jsonl: the mean weight of what a step's loss is made of, pairs or documents; with /min and /max, the
smallest and the largest."""


class LossWeights(NamedTuple):
    """The weights of a batch."""

    items: Tensor | None
    """Of documents: [L, N]."""
    pairs: Tensor | None
    """Of pairs of documents: [L, N, N]."""
    curriculum: Tensor | None
    """Those by the curriculum, of all that the loss is a sum of, in one row; None: no curriculum."""


def document_weights(example: RankingExample, docids: Iterable[str], config: WeightsConfig) -> tuple[float, ...]:
    """Read the weights of documents from their feature.

    Raises:
        ValueError: naming the query and the document whose feature is missing or no number of at least 0.
    """
    known = {candidate.docid: candidate.features.get(config.feature) for candidate in example.candidates}
    found: list[float] = []
    for docid in docids:
        value = known[docid]
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ValueError(
                f"qid {example.qid!r}, docid {docid!r}: weights.feature={config.feature} must be a finite number of at "
                f"least 0; got {value!r}"
            )
        found.append(1 / max(value, config.floor) if config.inverse else float(value))
    return tuple(found)


def padded(rows: Sequence[Sequence[float] | None]) -> Tensor | None:
    """Fill rows up with zeros: [L, N]; None if there are none."""
    there = [row for row in rows if row is not None]
    longest = max(map(len, there), default=0)
    return torch.tensor([[*row, *[0.0] * (longest - len(row))] for row in there]) if there else None


def loss_weights(
    batch: Mapping[str, Any], loss: RankingLoss, curriculum: CurriculumConfig | None, step: int
) -> LossWeights:
    """Find the weights of a batch for a ranking loss.

    Args:
        batch: has `grades`, `mask`, `item_weights` and `signals`, all [L, N], the last two or None.
        step: number of the optimizer step, from 0.
    """
    items, grades, mask = batch["item_weights"], batch["grades"], batch["mask"]
    if curriculum is None:
        return LossWeights(items, None, None)
    if loss.of_documents:
        own = curriculum_of_documents(batch["signals"], loss.relevant_documents(grades), curriculum, step)
        return LossWeights(own if items is None else items * own, None, own[mask])
    pairs = curriculum_of_pairs(batch["signals"], curriculum, step)
    return LossWeights(items, pairs, pairs[better(grades, mask)])


def logged_weights(weights: LossWeights) -> tuple[dict[str, float], int]:
    """Summarise the weights by the curriculum for the log.

    Returns:
        Their mean, minimum and maximum by name, and their number; nothing without any.
    """
    chosen = weights.curriculum
    if chosen is None or not len(chosen):
        return {}, 0
    values = {"": chosen.mean(), "/min": chosen.min(), "/max": chosen.max()}
    return {WEIGHT + part: value.item() for part, value in values.items()}, len(chosen)


def curriculum_of_pairs(signals: Tensor, curriculum: CurriculumConfig, step: int) -> Tensor:
    """Compute W of all pairs from [L, N] signals, the better document first: [L, N, N]."""
    return _weight((signals.unsqueeze(2) - signals.unsqueeze(1) + 1) / 2, curriculum, step)


def curriculum_of_documents(signals: Tensor, relevant: Tensor, curriculum: CurriculumConfig, step: int) -> Tensor:
    """Compute W of all documents from [L, N] signals: [L, N].

    Args:
        relevant: [L, N] of bool.
    """
    return _weight(torch.where(relevant, signals, 1 - signals), curriculum, step)


def _weight(ease: Any, curriculum: CurriculumConfig, step: int) -> Tensor:
    found: Any = weight(1 - ease if curriculum.anti else ease, step, curriculum.steps)
    return found
