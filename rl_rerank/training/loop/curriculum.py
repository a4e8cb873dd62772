"""Curricula that choose queries by the first stage's signal (order) or by pass rate (selection).

First-stage curricula follow Training Curricula for Open Domain Answer Re-Ranking, https://arxiv.org/abs/2004.14269, and
its code in OpenNIR. A signal h in [0, 1] rates a document by the first stage:

    reciprank  1 / rank, where a document that was not retrieved has rank 1000.
    normscore  (s - min) / (max - min) over the query's scores.
    kdescore   the distribution function, at s, of a Gaussian kernel density over the query's scores, with the
               bandwidth of scipy (Scott's rule).

The ease of a pair of a better document i and a worse one j is D = (h_i - h_j + 1) / 2; that of a query is the mean
over its pairs. The paper weights losses; here a query is sampled with a probability proportional to the weight

    W = D + (t / m) (1 - D) for t < m, and 1 from then on

in step t, without repetition within a pass over the queries. `anti` replaces D by 1 - D.
"""

# Shape legend: E examples.

import math
import statistics
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gaussian_kde

from rl_rerank.config import CurriculumConfig
from rl_rerank.data.indexed import outlines
from rl_rerank.types import RankingExample

NOT_RETRIEVED = 1000
"""The rank of a document that the first stage did not retrieve, in the paper's code."""
MIDDLE = 0.5


def reciprank(example: RankingExample) -> dict[str, float]:
    """Map docid to 1 / rank. If no candidate has a rank, its place among them (first-stage order) is used."""
    if all(c.rank is None for c in example.candidates):
        return {c.docid: 1 / place for place, c in enumerate(example.candidates, start=1)}
    return {c.docid: 1 / (c.rank or NOT_RETRIEVED) for c in example.candidates}


def normscore(example: RankingExample) -> dict[str, float]:
    """Map docid to the normalised score: 0 without a score, and for all if the scores are equal."""
    scores = _scores(example, "normscore")
    low, high = min(scores.values()), max(scores.values())
    width = (high - low) or 1.0
    return {c.docid: (scores[c.docid] - low) / width if c.docid in scores else 0.0 for c in example.candidates}


def kdescore(example: RankingExample) -> dict[str, float]:
    """Map docid to the share of the smoothed scores below its own: 0 without a score, 0.5 if the scores are equal."""
    scores = _scores(example, "kdescore")
    values = list(scores.values())
    if len(set(values)) < 2:
        return {c.docid: MIDDLE if c.docid in scores else 0.0 for c in example.candidates}
    density = gaussian_kde(values)
    below = {docid: float(density.integrate_box_1d(-math.inf, score)) for docid, score in scores.items()}
    return {c.docid: below.get(c.docid, 0.0) for c in example.candidates}


SIGNALS: dict[str, Callable[[RankingExample], dict[str, float]]] = {
    "reciprank": reciprank,
    "normscore": normscore,
    "kdescore": kdescore,
}


def require_signal(example: RankingExample, kind: str) -> None:
    """Refuse an example that the signal `kind` cannot rate.

    Raises:
        ValueError: if the signal is one of scores, and no candidate has one.
    """
    if kind != "reciprank":
        _scores(example, kind)


def ease(example: RankingExample, signal: Callable[[RankingExample], dict[str, float]]) -> float:
    """Compute D in [0, 1], the mean over pairs of candidates with different grades; 0.5 without pairs."""
    h = signal(example)
    of_grade: dict[int, list[float]] = {}
    for c in example.candidates:
        of_grade.setdefault(example.qrels.get(c.docid, 0), []).append(h[c.docid])
    # Most candidates share one grade, and pairs within it are many and of no use.
    apart = [(i, j) for i in of_grade for j in of_grade if i > j]
    pairs = [(better - worse + 1) / 2 for i, j in apart for better in of_grade[i] for worse in of_grade[j]]
    return statistics.fmean(pairs) if pairs else MIDDLE


def weight(ease: NDArray[np.float64] | float, step: int, steps: int) -> NDArray[np.float64] | float:
    """Compute W of queries in step t = `step` of a curriculum that ends at m = `steps`."""
    return ease + step / steps * (1 - ease) if step < steps else ease * 0 + 1.0


class FirstStage:
    """An order of queries by the first stage's signal.

    Raises:
        ValueError: if a curriculum of scores meets an example without scores.
    """

    def __init__(self, config: CurriculumConfig, examples: Sequence[RankingExample]) -> None:
        self.steps = config.steps
        found = np.array([ease(example, SIGNALS[config.kind]) for example in outlines(examples)])
        self.ease = 1 - found if config.anti else found  # [E]

    def one_pass(self, seed: str, step: Callable[[], int]) -> Iterator[int]:
        """Yield the place of every example once: each step draws from the remaining ones in proportion to its weights.

        Args:
            step: returns the step of the next example.
        """
        rng, left = generator(seed), np.arange(len(self.ease))
        while len(left):
            now = step()
            weights = np.asarray(weight(self.ease[left], now, self.steps))
            left = left[drawn(weights, rng)]
            taken = 0
            while taken < len(left) and step() == now:
                yield int(left[taken])
                taken += 1
            left = left[taken:]


def drawn(weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw all indices without replacement, each in proportion to the weights of the remaining ones.

    Sorts by log W + Gumbel noise, which has that distribution: https://arxiv.org/abs/1903.06059. Indices of weight 0
    come last.
    """
    with np.errstate(divide="ignore"):
        return np.argsort(-(np.log(weights) + rng.gumbel(size=len(weights))), kind="stable")


def generator(seed: str) -> np.random.Generator:
    """Seed a generator with a text, identically on every process."""
    return np.random.default_rng(list(seed.encode()))


def _scores(example: RankingExample, name: str) -> dict[str, float]:
    scores = {c.docid: c.score for c in example.candidates if c.score is not None and math.isfinite(c.score)}
    if not scores:
        raise ValueError(
            f"curriculum: {name} needs first-stage scores, and the candidates of qid {example.qid!r} have none; "
            "reciprank needs their order only"
        )
    return scores
