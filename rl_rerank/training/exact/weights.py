"""Weights of documents and pairs in ranking losses, from the data: a feature, and the first stage's signal.

The weight of a pair of a better document i and a worse one j in step t is W = D + (t / m)(1 - D), with its ease
D = (h_i - h_j + 1) / 2 by the first stage's signal h, as in Training Curricula for Open Domain Answer Re-Ranking,
https://arxiv.org/abs/2004.14269; `rl_rerank/training/loop/curriculum.py` has the signals.
"""

# Shape legend: L lists, N documents (padded).

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rl_rerank.config import CurriculumConfig, WeightsConfig
from rl_rerank.training.loop.curriculum import weight
from rl_rerank.training.losses.base import better
from rl_rerank.types import RankingExample

WEIGHT = "curriculum/weight"
"""In metrics.jsonl: the mean weight of the pairs of a step; with /min and /max, the smallest and the largest."""


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


def loss_weights(batch: Mapping[str, Any], curriculum: CurriculumConfig | None, step: int) -> dict[str, Tensor | None]:
    """Find the weights of a batch as arguments of a ranking loss.

    Args:
        batch: has `item_weights` and `signals`, both [L, N] or None.
        step: number of the optimizer step, from 0.
    """
    between = None if curriculum is None else pair_weights(batch["signals"], curriculum, step)
    return {"item_weights": batch["item_weights"], "pair_weights": between}


def logged_weights(between: Tensor | None, grades: Tensor, mask: Tensor) -> tuple[dict[str, float], int]:
    """Summarise the weights of the pairs of a better document and a worse one, for the log.

    Args:
        between: [L, N, N]; None: no curriculum.

    Returns:
        Their mean, minimum and maximum by name, and the number of pairs; nothing without pairs.
    """
    chosen = grades[:0].flatten() if between is None else between[better(grades, mask)]
    if not len(chosen):
        return {}, 0
    values = {"": chosen.mean(), "/min": chosen.min(), "/max": chosen.max()}
    return {WEIGHT + part: value.item() for part, value in values.items()}, len(chosen)


def pair_weights(signals: Tensor, curriculum: CurriculumConfig, step: int) -> Tensor:
    """Compute W of all pairs from [L, N] signals, the better document first: [L, N, N]."""
    ease: Any = (signals.unsqueeze(2) - signals.unsqueeze(1) + 1) / 2
    found: Any = weight(1 - ease if curriculum.anti else ease, step, curriculum.steps)
    return found
