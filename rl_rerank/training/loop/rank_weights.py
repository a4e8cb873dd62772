"""Token weights of an answer that gives an order: the first identifiers weigh most.

    w_t = 1 + 1 / log2(p + 1)   for every token that holds a part of the p-th identifier, p from 1: 2, 1.631, 1.5, ...
    w_t = separator             for the tokens between identifiers
    w_t = 1                     for all others: reasoning, tags, answers that give no order, and the end

Source: FullRank, https://arxiv.org/abs/2412.14574, and its code, where a separator counts 1. The loss is divided by the
number of tokens, not by the sum of weights, so weights also raise the effective learning rate.
"""

import math
import re
from typing import Any

from rl_rerank.paradigms.labels import LETTERS, NUMBERS


def rank_weights(target: str, tokenizer: Any, separator: float) -> list[float]:
    """Compute a weight for each token of an answer's text."""
    spans = _identifiers(target)
    encoded = tokenizer(target, add_special_tokens=False, return_offsets_mapping=True)
    return [_weight(start, end, spans, separator) for start, end in encoded["offset_mapping"]]


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
