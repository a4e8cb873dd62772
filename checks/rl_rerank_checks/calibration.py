"""Which losses make probabilities of relevance, and which only orders: pointwise and anchored ones the former."""

# Shape legend: Q queries, B bins of probabilities.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_rerank.evaluation.answers import RANKINGS
from rl_rerank.evaluation.enough import too_few
from rl_rerank.metrics.logistic import sigmoid
from rl_rerank.paradigms.base import traits
from rl_rerank.stages.check.finished_run import Finding, Run

Floats = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class Calibration:
    """A rerank stage's probabilities of relevance have a lower expected calibration error than those of others.

    The error is that of `rl_rerank.evaluation.functions.calibration`: the distance between the mean probability and
    the share of relevant documents, by bins of probabilities. Documents that nobody judged count as not relevant, as
    they do in nDCG. The difference of two stages passes if its 95% interval over resampled queries lies below 0; the
    intervals are not corrected for the number of stages. Beside it stands p of a randomisation test, which exchanges
    the two stages' probabilities query by query.
    """

    stage: str
    others: Sequence[str]
    """The stage itself, if it is among them, is left out."""
    bins: int = 10
    levels: int | None = None
    """Number of grades, from 0, where the probability that stands for grade y is (y + 1/2) / levels, the anchor of
    `loss=anchored_hinge`; null: it is 1 for every grade above 0, and 0 for 0."""

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1; got {self.bins}")
        if not [other for other in self.others if other != self.stage]:
            raise ValueError("others must name at least one other rerank stage")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"levels must be at least 2; got {self.levels}")

    def refuse(self, run: Run) -> None:
        for stage in (self.stage, *self.others):
            run.ranked_by_model(stage)
            paradigm = run.paradigm(stage)
            if traits(paradigm).score_scale != "log_odds":
                raise ValueError(f"{stage!r} ranks with {paradigm.name!r}, whose scores are no log-odds of relevance")
            if (split := run.rerank(stage).split) != (own := run.rerank(self.stage).split):
                raise ValueError(f"{self.stage!r} ranks split {own!r}, {stage!r} {split!r}; compare one split")

    def __call__(self, run: Run) -> list[Finding]:
        own = self._gaps(run, self.stage)
        found: list[Finding] = []
        for other in self.others:
            if other == self.stage:
                continue
            what = f"{self.stage}: probabilities are better calibrated than those of {other}"
            theirs = self._gaps(run, other)
            qids = sorted(own.keys() & theirs.keys())
            if reason := too_few(len(qids)):
                found.append(Finding(what, False, reason, is_quality=True))
                continue
            ours, others = (np.stack([gaps[qid] for qid in qids]) for gaps in (own, theirs))
            draws = np.random.default_rng(run.config.seed).multinomial(len(qids), [1 / len(qids)] * len(qids), DRAWS)
            low, high = np.quantile(error(ours, draws) - error(others, draws), [0.025, 0.975])
            whole = np.ones((1, len(qids)))
            said = f"{error(ours, whole)[0]:.3f} and {error(others, whole)[0]:.3f} on {len(qids)} queries, "
            said += f"difference from {low:+.3f} to {high:+.3f}, p = {p_value(ours, others, run.config.seed):.3g}"
            found.append(Finding(what, bool(high < 0), said, is_quality=True))
        return found

    def _gaps(self, run: Run, stage: str) -> dict[str, Floats]:
        """qid -> [B, 2]: the sum of probability less truth, and the number of documents, in each bin."""
        judged = run.store.qrels(run.rerank(stage).split)
        found: dict[str, Floats] = {}
        for row in run.rows(stage, RANKINGS):
            gaps = np.zeros((self.bins, 2))
            for docid, score in (row["raw_scores"] or {}).items():
                p = sigmoid(score)
                gaps[min(int(p * self.bins), self.bins - 1)] += (p - self._truth(judged[row["qid"]].get(docid, 0)), 1)
            found[row["qid"]] = gaps
        return found

    def _truth(self, grade: int) -> float:
        """The probability that a grade stands for."""
        if self.levels is None:
            return float(grade > 0)
        if not 0 <= grade < self.levels:
            raise ValueError(f"calibration: a document is graded {grade}, and levels={self.levels}")
        return (grade + 0.5) / self.levels


def error(gaps: Floats, draws: NDArray[np.int64] | Floats) -> Floats:
    """Compute the expected calibration error of each draw of queries.

    Args:
        gaps: [Q, B, 2], as above.
        draws: [D, Q], how often each query is drawn.

    Returns:
        [D].
    """
    return _error(np.tensordot(draws, gaps, axes=1))


def p_value(ours: Floats, others: Floats, seed: int) -> float:
    """Probability of a difference of errors as large as that of two stages [Q, B, 2] if neither were better.

    Source: Smucker, Allan & Carterette 2007, https://doi.org/10.1145/1321440.1321528, of an error over all queries.
    """
    keep = np.random.default_rng(seed).integers(0, 2, (DRAWS, len(ours))).astype(np.float64)
    one, other = (np.tensordot(a, ours, axes=1) + np.tensordot(1 - a, others, axes=1) for a in (keep, 1 - keep))
    observed = abs(_error(ours.sum(0)[None])[0] - _error(others.sum(0)[None])[0])
    return float(1 + np.count_nonzero(np.abs(_error(one) - _error(other)) >= observed - 1e-12)) / (1 + DRAWS)


def _error(sums: NDArray[np.floating[Any]]) -> Floats:
    """[D, B, 2] -> [D]."""
    return np.abs(sums[..., 0]).sum(1) / sums[..., 1].sum(1)
