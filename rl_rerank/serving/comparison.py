"""Two answers to a golden entry, and where they first differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rl_rerank.metrics.logistic import sigmoid
from rl_rerank.serving.contract import GoldenPrompt, GoldenScores

TOLERANCE = {"float32": 1e-3}
"""Largest difference of a score or a log-probability, by type of the weights."""
TOLERANCE_REDUCED = 0.2
"""The same for other types, in which a value is rounded by what stands in the same batch."""
BEFORE, BEHIND = 10, 40
"""Characters of a text in a problem, before and behind the place where it differs."""


class Comparison:
    """Collects the differences of golden entries from those at export.

    Attributes:
        problems: a sentence for each entry that differs.
        has_other_values: whether an entry differs in what the model computed, and not in its prompts as far as they are
            seen.
    """

    def __init__(self, dtype: str) -> None:
        self.tolerance = TOLERANCE.get(dtype, TOLERANCE_REDUCED)
        self.problems: list[str] = []
        self.has_other_values = False
        self._gaps: dict[tuple[str, int], float] = {}
        self._order = "in the same order"

    def add(self, then: GoldenScores, now: GoldenScores) -> bool:
        """Compare an entry and return whether both are equal."""
        if found := difference(then, now, self.tolerance):
            self.problems.append(f"golden query {then.query!r}, {found.said}")
            self.has_other_values |= found.is_of_values
            return False
        for number, (before, after) in enumerate(zip(then.scores, now.scores, strict=True)):
            self._gaps[then.query, number] = gap(before, after)
        if _order(then.scores) != _order(now.scores):
            self._order = "and documents that are nearer to each other change places"
        return True

    @property
    def note(self) -> str:
        """The largest distance of a score."""
        largest = max(self._gaps.values(), default=0.0)
        return f"{len(self._gaps)} golden scores are within {largest:.1e} of those at export, {self._order}"


class Difference(NamedTuple):
    """The first place where two answers differ."""

    said: str
    is_of_values: bool
    """Whether the model computed something else, and not only was asked otherwise, or its score was changed."""


def difference(then: GoldenScores, now: GoldenScores, tolerance: float) -> Difference | None:
    """Say where the model was first shown, or first answered, something else than at export; None if nowhere."""
    if then.prompts and now.prompts and len(then.prompts) != len(now.prompts):
        said = f"the model is asked {len(now.prompts)} prompts, and was asked {len(then.prompts)} at export"
        return Difference(said, is_of_values=False)
    for number, (before, after) in enumerate(zip(then.prompts, now.prompts, strict=False)):
        if said := _of_prompts(before, after):
            return Difference(f"prompt {number}: {said}", is_of_values=False)
        if said := _of_values(before, after, tolerance):
            return Difference(f"prompt {number}: {said}", is_of_values=True)
    gaps = [gap(before, after) for before, after in zip(then.scores, now.scores, strict=True)]
    if max(gaps) <= tolerance:
        return None
    worst = gaps.index(max(gaps))
    is_sigmoid = all(gap(sigmoid(a), b) <= tolerance for a, b in zip(then.scores, now.scores, strict=True))
    order = "another" if _is_misordered(then.scores, now.scores, tolerance) else "the same"
    said = (
        f"document {worst}: the score is {now.scores[worst]:.6f}, and was {then.scores[worst]:.6f} at export"
        f"{' (it is the sigmoid of that)' if is_sigmoid else ''}; the order is {order}"
    )
    has_values = any(prompt.continuations for prompt in now.prompts)
    return Difference(said, is_of_values=not is_sigmoid and not has_values)


def gap(one: float, other: float) -> float:
    """The distance of two values; infinite where one is not a number."""
    distance = abs(one - other)
    return math.inf if math.isnan(distance) else distance


def _of_prompts(then: GoldenPrompt, now: GoldenPrompt) -> str | None:
    if then.text != now.text:
        place = _first(then.text, now.text)
        shown = slice(max(place - BEFORE, 0), place + BEHIND)
        before, after = then.text[shown], now.text[shown]
        return f"the template's text differs from character {place} on: {after!r}, and was {before!r} at export"
    if then.token_ids != now.token_ids:
        place = _first(then.token_ids, now.token_ids)
        before, after = (ids[place : place + 4] for ids in (then.token_ids, now.token_ids))
        return f"the text is the same, and token ids differ from place {place} on: {after}, and were {before} at export"
    return None


def _of_values(then: GoldenPrompt, now: GoldenPrompt, tolerance: float) -> str | None:
    for text, before in then.continuations.items():
        if gap(before, after := now.continuations.get(text, before)) > tolerance:
            return (
                f"token ids are the same, and logits differ: the log-probability of {text!r} is {after:.6f}, and was "
                f"{before:.6f} at export"
            )
    return None


def _first(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The first place at which two sequences differ."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _is_misordered(then: Sequence[float], now: Sequence[float], tolerance: float) -> bool:
    """Whether a document stands behind one that was clearly worse."""
    return any(then[b] > then[a] + 2 * tolerance for a, b in pairwise(_order(now)))


def _order(scores: Sequence[float]) -> list[int]:
    """Documents by score, best first, equal ones as given."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])
