"""A log of result lists with their clicks, and what it says about position bias and relevance.

The model is the examination hypothesis: a click at rank k has probability p_k * r(q, d), p_k being how often rank k is
looked at in comparison with rank 1, and r the relevance.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from rl_rerank.data.sources.reading import records, string

FLOOR = 1e-6
"""Probabilities are kept so far from 0 and 1."""


class Session(NamedTuple):
    """One list that was shown, and what was clicked in it."""

    qid: str
    docids: tuple[str, ...]
    """As shown, from rank 1."""
    clicked: frozenset[str]


class Shown(NamedTuple):
    """How often a document was shown for a query at a rank, and clicked there."""

    times: int
    clicks: int


Log = Mapping[tuple[str, str], Mapping[int, Shown]]
"""(qid, docid) -> rank, from 1 -> counts."""


def read(path: Path) -> Iterator[Session]:
    """Lines `{qid, docids: [...], clicks: [docid, ...]}`, plain or with .gz; what is clicked must be shown."""
    for place, row in records(path):
        docids, clicks = row.get("docids"), row.get("clicks")
        if not isinstance(docids, list) or not isinstance(clicks, list):
            raise ValueError(f"{place}: docids and clicks must be lists; got {row!r:.80}")
        shown = tuple(map(str, docids))
        if len(set(shown)) < len(shown):
            raise ValueError(f"{place}: docids names a document more than once; got {docids!r:.80}")
        if strange := sorted(set(map(str, clicks)) - set(shown)):
            raise ValueError(f"{place}: {strange[0]!r} was clicked and is none of the documents shown")
        yield Session(string(row, ("qid",), place), shown, frozenset(map(str, clicks)))


def count(sessions: Iterable[Session]) -> dict[tuple[str, str], dict[int, Shown]]:
    """The log as counts."""
    times: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    clicks: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for session in sessions:
        for rank, docid in enumerate(session.docids, start=1):
            times[session.qid, docid][rank] += 1
            clicks[session.qid, docid][rank] += docid in session.clicked
    return {pair: {rank: Shown(n, clicks[pair][rank]) for rank, n in ranks.items()} for pair, ranks in times.items()}


def propensities(log: Log, depth: int) -> list[float]:
    """p_1 .. p_depth with p_1 = 1, from documents that the log shows at different ranks: no experiment is needed.

    The AllPairs estimator of intervention harvesting, Agarwal et al. 2019, https://arxiv.org/abs/1812.05161: over the
    documents shown at both k and k', which are of the same relevance there, clicks and skips at each, weighted by how
    often each was shown, maximise the likelihood of p_k * r_kk'.

    Raises:
        ValueError: if a rank up to `depth` shares no document with another one.
    """
    clicks, skips = np.zeros((depth, depth)), np.zeros((depth, depth))
    for ranks in log.values():
        here = [(rank - 1, shown) for rank, shown in ranks.items() if rank <= depth]
        for k, shown in here:
            for other, _ in here:
                if other != k:
                    rate = shown.clicks / shown.times
                    clicks[k, other] += rate
                    skips[k, other] += 1 - rate
    for k in range(depth):
        if depth > 1 and not (clicks[k] + skips[k]).any():
            raise ValueError(
                f"the log shows no document at rank {k + 1} that it also shows at another of the first {depth} ranks, "
                "so its position bias cannot be told from relevance; give the propensities"
            )
    upper = np.triu_indices(depth, 1)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        p, relevance = expit(values[:depth]), np.zeros((depth, depth))
        relevance[upper] = expit(values[depth:])
        relevance += relevance.T
        chance = np.clip(p[:, None] * relevance, FLOOR, 1 - FLOOR)
        slope = -(clicks / chance - skips / (1 - chance))
        to_p = (slope * relevance).sum(axis=1) * p * (1 - p)
        pairs = slope * p[:, None]
        r = relevance[upper]
        return float(-(clicks * np.log(chance) + skips * np.log(1 - chance)).sum()), np.concatenate(
            [to_p, (pairs + pairs.T)[upper] * r * (1 - r)]
        )

    found = minimize(loss, np.zeros(depth + len(upper[0])), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    p = expit(found.x[:depth])
    return [float(value) for value in p / p[0]]


def relevance(log: Log, propensity: Sequence[float], *, floor: float) -> dict[str, dict[str, float]]:
    """qid -> docid -> mean of click / p over the times it was shown: unbiased where every p is above `floor`.

    Inverse propensity scoring, Joachims et al. 2017, https://arxiv.org/abs/1608.04468. With propensities of 1 it is the
    plain click rate. Ranks behind those that have a propensity are left out.
    """
    found: dict[str, dict[str, float]] = {}
    for (qid, docid), ranks in log.items():
        kept = {rank: shown for rank, shown in ranks.items() if rank <= len(propensity)}
        if times := sum(shown.times for shown in kept.values()):
            weighted = sum(shown.clicks / max(propensity[rank - 1], floor) for rank, shown in kept.items())
            found.setdefault(qid, {})[docid] = weighted / times
    return found


def features(rows: Iterable[tuple[str, dict[str, Any]]]) -> dict[tuple[str, str], dict[str, float]]:
    """(qid, docid) -> numbers, from lines `{qid, docid, NAME: number, ...}`."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for place, row in rows:
        pair = string(row, ("qid",), place), string(row, ("docid",), place)
        numbers = {name: value for name, value in row.items() if name not in ("qid", "docid")}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{place}: {name} must be a number; got {value!r:.80}")
        if pair in found:
            raise ValueError(f"{place}: qid {pair[0]!r} with docid {pair[1]!r} stands there twice")
        found[pair] = {name: float(value) for name, value in numbers.items()}
    return found
