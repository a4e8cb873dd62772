"""Whether a score means what it says: of the documents scored 0.8, are 80% relevant?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Bin(NamedTuple):
    """The documents whose scores fall between two bounds; one point of a reliability curve."""

    low: float
    high: float
    """Part of the last bin, else of the next one."""
    num_documents: int
    mean_score: float
    share_relevant: float


class Threshold(NamedTuple):
    """A cut: documents that score at least `score` are kept."""

    score: float
    precision: float
    """Share of what is kept that is relevant."""
    recall: float
    """Share of what is relevant that is kept; 0 where nothing is relevant."""


def reliability_curve(scores: Sequence[float], is_relevant: Sequence[bool], num_bins: int = 10) -> list[Bin]:
    """Mean score against share of relevant documents in bins of equal width over [0, 1]; empty bins are left out.

    Args:
        scores: predicted probabilities of relevance of judged documents, of all queries together.
        is_relevant: for each of them.

    Source: Niculescu-Mizil & Caruana 2005, https://doi.org/10.1145/1102351.1102430
    """
    values, relevant = _checked(scores, is_relevant)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1; got {num_bins}")
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"scores must be probabilities, from 0 to 1; got {values.min():g} to {values.max():g}. "
            "Logits become probabilities by a sigmoid."
        )
    # Divided and compared, not multiplied: 3 / 10 is the float 0.3, while 0.1 * 3 and linspace lie above it.
    edges = np.arange(num_bins + 1) / num_bins
    place = np.searchsorted(edges[1:-1], values, side="right")
    found = [(i, place == i) for i in range(num_bins)]
    return [
        Bin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            num_documents=int(inside.sum()),
            mean_score=float(values[inside].mean()),
            share_relevant=float(relevant[inside].mean()),
        )
        for i, inside in found
        if inside.any()
    ]


def expected_calibration_error(curve: Sequence[Bin]) -> float:
    """Mean distance of score and share of relevant documents, each bin by its documents; 0 is perfectly calibrated.

    Source: Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602
    """
    total = sum(b.num_documents for b in curve)
    return sum(b.num_documents * abs(b.mean_score - b.share_relevant) for b in curve) / total


def threshold_for_precision(scores: Sequence[float], is_relevant: Sequence[bool], precision: float) -> Threshold | None:
    """The lowest score at which documents of at least that score are relevant to a share of `precision`.

    The share is that of these documents, without a margin for others: choose the threshold on development queries.

    Args:
        scores: of judged documents of all queries together, on any scale.
        precision: wanted share, above 0 and at most 1.

    Returns:
        None where no threshold reaches `precision`.
    """
    values, relevant = _checked(scores, is_relevant)
    if not 0 < precision <= 1:
        raise ValueError(f"precision must lie above 0 and be at most 1; got {precision}")
    order = np.argsort(-values, kind="stable")
    found, kept = np.cumsum(relevant[order]), np.arange(1, len(values) + 1)
    # Documents of one score are kept or dropped together.
    is_last_of_score = np.append(np.diff(values[order]) != 0, True)
    reached = np.flatnonzero(is_last_of_score & (found >= precision * kept - 1e-9))
    if not len(reached):
        return None
    cut = reached[-1]
    return Threshold(
        score=float(values[order][cut]),
        precision=float(found[cut] / kept[cut]),
        recall=float(found[cut] / found[-1]) if found[-1] else 0.0,
    )


def _checked(scores: Sequence[float], is_relevant: Sequence[bool]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if len(scores) != len(is_relevant):
        raise ValueError(f"every score needs its judgment; got {len(scores)} scores and {len(is_relevant)} judgments")
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        raise ValueError("there is no judged document, so nothing can be said of the scores")
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite numbers; got {values[~np.isfinite(values)][0]}")
    return values, np.asarray(is_relevant, dtype=np.bool_).astype(np.float64)
