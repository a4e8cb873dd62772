"""Visits to carousel pages in a finished run's data, from the features of candidates."""

from collections.abc import Iterable, Sequence

import numpy as np

from rl_rerank.evaluation.clicks.pages import Pages
from rl_rerank.types import Candidate, RankingExample


def number(example: RankingExample, candidate: Candidate, name: str) -> float:
    """Read a feature.

    Raises:
        ValueError: naming the query and the document where it is missing or no number.
    """
    value = candidate.features.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"qid {example.qid!r}, docid {candidate.docid!r}: the feature {name} must be a number; got {value!r}"
        )
    return float(value)


def pages(examples: Iterable[RankingExample], kinds: Sequence[float] | None = None) -> tuple[Pages, list[float]]:
    """Lay candidates out by their features `row` and `column`, with `clicked`, `examined` and, as the kind, `rating`.

    Args:
        kinds: ratings by the number of their kind; None: those that there are.

    Returns:
        The pages, and the ratings by number.

    Raises:
        ValueError: naming the query whose candidates do not fill the layout of the first one, or have another rating.
    """
    examples = list(examples)
    if not examples:
        raise ValueError("there are no visits")
    names = ("row", "column", "clicked", "examined", "rating")
    values = [np.array([[number(e, c, name) for name in names] for c in e.candidates]) for e in examples]
    shape = tuple(values[0][:, :2].max(axis=0).astype(int))
    known = sorted(set(np.concatenate(values)[:, 4].tolist())) if kinds is None else list(kinds)
    layout = np.zeros((len(values), *shape, 3))
    for page, (example, of) in enumerate(zip(examples, values, strict=True)):
        places = {(int(row), int(column)) for row, column in of[:, :2]}
        if places != {(r + 1, c + 1) for r in range(shape[0]) for c in range(shape[1])} or len(of) != len(places):
            raise ValueError(
                f"qid {example.qid!r}: candidates must fill {shape[0]} rows of {shape[1]} columns, each place once, as "
                "those of the first query do; data.depth may be too small"
            )
        if strange := sorted(set(of[:, 4].tolist()) - set(known)):
            raise ValueError(f"qid {example.qid!r}: no training visit has the rating {strange[0]:g}")
        for row, column, clicked, examined, rating in of:
            layout[page, int(row) - 1, int(column) - 1] = clicked, examined, known.index(rating)
    return Pages(layout[..., 2].astype(np.int64), layout[..., 0] > 0, layout[..., 1] > 0), known
