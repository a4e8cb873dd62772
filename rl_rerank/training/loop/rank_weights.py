"""Token weights of an answer that gives an order: the first identifiers weigh most.

    w_t = 1 + 1 / log2(p + 1)   for every token that holds a part of the p-th identifier, p from 1: 2, 1.631, 1.5, ...
    w_t = separator             for the tokens between identifiers
    w_t = 1                     for all others: reasoning, tags, answers that give no order, and the end

Source: FullRank, https://arxiv.org/abs/2412.14574, and its code, where a separator counts 1. There the loss is divided
by the number of tokens, not by the sum of weights, so weights also raise the effective learning rate. With
`normalise="weights"` an answer's weights are divided by their mean, and only their proportions are left to matter.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from rl_rerank.paradigms.labels import LETTERS, NUMBERS


@dataclass(frozen=True, kw_only=True)
class RankWeights:
    """The parameters of the weights.

    Raises:
        ValueError: for a value that is none.
    """

    separator: float = 1.0
    normalise: Literal["tokens", "weights"] = "tokens"

    def __post_init__(self) -> None:
        is_number = isinstance(self.separator, (int, float)) and not isinstance(self.separator, bool)
        if not is_number or not 0 <= self.separator < math.inf:
            raise ValueError(f"separator must be a number of at least 0; got {self.separator!r}")
        if self.normalise not in ("tokens", "weights"):
            raise ValueError(f"normalise must be tokens or weights; got {self.normalise!r}")

    def __call__(self, target: str, tokenizer: Any) -> list[float]:
        """Compute a weight for each token of an answer's text, and for the end token behind it."""
        spans = _identifiers(target)
        encoded = tokenizer(target, add_special_tokens=False, return_offsets_mapping=True)
        found = [_weight(start, end, spans, self.separator) for start, end in encoded["offset_mapping"]]
        found.append(1.0)
        mean = sum(found) / len(found) if self.normalise == "weights" else 1.0
        return [weight / mean for weight in found]


def _identifiers(target: str) -> list[tuple[int, int]]:
    """Find the character spans of an order's identifiers; none unless the answer orders several."""
    begin = target.rfind("<answer>") + len("<answer>") if "<answer>" in target else 0
    answer = target[begin:].removesuffix("</answer>")
    for labels in (NUMBERS, LETTERS):
        if labels.permutation.fullmatch(answer):
            found = [(begin + m.start(), begin + m.end()) for m in re.finditer(labels.exact, answer)]
            return found if len(found) > 1 else []
    return []


def _weight(start: int, end: int, spans: list[tuple[int, int]], separator: float) -> float:
    for place, (first, last) in enumerate(spans, start=1):
        if start < last and end > first:
            return 1 + 1 / math.log2(place + 1)
    return separator if spans and spans[0][1] <= start and end <= spans[-1][0] else 1.0
