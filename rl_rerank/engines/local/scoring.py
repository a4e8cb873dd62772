"""Log-probabilities of continuations behind prompts: prompts of a batch are one packed row, in which what they share,
such as instruction and query, is computed once. The output head computes in float32, also in bfloat16 models: scores
are differences of log-probabilities, of which bfloat16 would make many equal.

On the first batch a few prompts are also computed as padded rows; where both differ, all are from then on.
"""

# Shape legend: P prompts, E continuations.

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rl_rerank.packed import forward
from rl_rerank.packed.layout import Labelled, pack

logger = logging.getLogger(__name__)

COMPARED = 4
"""Prompts that are computed both ways."""


class Scorer:
    """Scores continuations of prompts by log-probability over the full vocabulary.

    Args:
        batch_tokens: token budget of one forward; a longer prompt is a batch by itself.

    Attributes:
        refusal: why rows are not packed; None where they are.
    """

    def __init__(self, model: PreTrainedModel, *, pad_id: int, batch_tokens: int) -> None:
        self.model = model
        self.pad_id = pad_id
        self.batch_tokens = batch_tokens
        self.refusal = forward.refusal(model)
        if self.refusal is None:
            forward.install(model)
        self._is_verified = False

    def batches(self, prompts: Sequence[Sequence[int]], endings: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Divide prompts, given as token ids, into batches within the budget; yields their indices."""
        if not prompts:
            return
        if self.refusal is not None:
            copies = len(endings) if max(map(len, endings)) > 1 else 1
            yield from padded_batches([len(ids) * copies for ids in prompts], self.batch_tokens)
            return
        # In the order of their tokens those that share most are neighbours.
        order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
        shared = [0, *(_common(prompts[i], prompts[j]) for i, j in pairwise(order))]
        own = sum(len(ending) - 1 for ending in endings)
        batch, used = list[int](), 0
        for i, common in zip(order, shared, strict=True):
            if batch and used + len(prompts[i]) - common + own > self.batch_tokens:
                yield batch
                batch, used = [], 0
            used += len(prompts[i]) - (common if batch else 0) + own
            batch.append(i)
        if batch:
            yield batch

    def __call__(self, prompts: Sequence[Sequence[int]], endings: Sequence[Sequence[int]]) -> list[list[float]]:
        """Compute [P, E] log-probabilities of every ending behind every prompt of a batch."""
        sequences: list[Labelled] = [([*ids, *ending], len(ids)) for ids in prompts for ending in endings]
        if self.refusal is None and not self._is_verified:
            self._verify(sequences[: COMPARED * len(endings)])
        each = iter(self._log_probs(sequences))
        return [[sum(next(each) for _ in ending) for ending in endings] for _ in prompts]

    def _log_probs(self, sequences: Sequence[Labelled]) -> list[float]:
        if self.refusal is None:
            found = self._packed(sequences)
            if bool(found.isfinite().all()):
                return found.tolist()
            # A weight of 0 times a value that is not a number is none either: within a packed row one document whose
            # values overflow would take others along.
        return self._plain(sequences).tolist()

    def _packed(self, sequences: Sequence[Labelled]) -> Tensor:
        return forward.scored(self.model, pack(sequences).to(self.model.device), in_float32=True).log_probs

    def _plain(self, sequences: Sequence[Labelled]) -> Tensor:
        return forward.plainly_scored(self.model, sequences, pad_id=self.pad_id, in_float32=True).log_probs

    def _verify(self, sequences: Sequence[Labelled]) -> None:
        self._is_verified = True
        gap = (self._packed(sequences) - self._plain(sequences)).abs().mean().item()
        is_reduced = self.model.dtype != torch.float32 or torch.is_autocast_enabled(self.model.device.type)
        allowed = forward.GAP_REDUCED if is_reduced else forward.GAP_FLOAT32
        if gap > allowed:
            self.refusal = f"the log-probabilities were {gap:.2g} nats apart from those of separate rows, not {allowed}"
            logger.warning("prompts of a query are scored one by one: %s", self.refusal)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens with which both begin."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def padded_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Batch row indices by length, longest first, with rows times width of a batch within `budget`."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
