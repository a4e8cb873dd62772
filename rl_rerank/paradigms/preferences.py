"""duoBERT's aggregations: the score of a document from its probabilities of being better than each other one.

p_ij is the probability that document i is better than j in the prompt that shows i before j. Nogueira et al. 2019,
https://arxiv.org/abs/1910.14424.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import fsum

from rl_rerank.paradigms.base import Strategy
from rl_rerank.paradigms.ordering import Counts, rank_by_scores
from rl_rerank.types import Prompt, RankingExample

ONE_ORDER = "one_order"
"""Each pair is asked once, as shown: document i has the sum of p_ij over later documents j and of 1 - p_ji over earlier
ones. It costs half of `sum` and depends on the order shown where p_ij is not 1 - p_ji."""

_OF_OTHERS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": fsum,
    "binary": lambda found: float(sum(p > 0.5 for p in found)),
    "min": min,
    "max": max,
}
AGGREGATIONS = (*_OF_OTHERS, ONE_ORDER)
"""`sum`, `min` and `max` of p_ij over all j, and the number of them above 1/2 (`binary`)."""


def preferred(
    example: RankingExample,
    prompt: Callable[[RankingExample, Sequence[str]], Prompt],
    aggregation: str,
    counts: Counts,
) -> Strategy:
    """Ask about all pairs in one round and order by the aggregated probabilities.

    A probability that cannot be used is 1/2. A single document has the score 0.
    """
    pairs = list(combinations(example.docids, 2))
    if aggregation != ONE_ORDER:
        pairs = [shown for pair in pairs for shown in (pair, pair[::-1])]
    judgments = yield [prompt(example, shown) for shown in pairs]
    counts.add(judgments)
    found: dict[str, list[float]] = {docid: [] for docid in example.docids}
    for (first, second), judgment in zip(pairs, judgments, strict=True):
        p = judgment.scores.get(first, 0.5)
        found[first].append(p)
        if aggregation == ONE_ORDER:
            found[second].append(1 - p)
    combine = _OF_OTHERS.get(aggregation, fsum)
    return rank_by_scores(example, {d: combine(ps) if ps else 0.0 for d, ps in found.items()}, **vars(counts))
