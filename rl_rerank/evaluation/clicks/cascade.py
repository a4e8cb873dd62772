"""The row-then-column cascade of a carousel page: people read a row from the left, then the next one, until they click.

A person examines the first item. After an item of column c that is not clicked the next one of the row is examined with
probability right[c]; else the person leaves the row, at its end in any case. After row r the person goes on to the next
with probability down[r], else gives up. A click ends the visit. It is the cascade of Craswell et al. 2008,
https://doi.org/10.1145/1341531.1341545, for a list of lists. The carousel click model of Rahdari et al. 2022,
https://arxiv.org/abs/2209.13426, cascades over headings instead, and enters the row whose heading attracts.
"""

# Shape legend: S pages seen, R rows, C columns, K kinds of items.

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_rerank.evaluation.clicks.pages import Bools, Floats, Pages, clipped, share


class _Walk(NamedTuple):
    """Probabilities on the way through pages whose items are not clicked."""

    alpha: Floats
    """[S, R, C], of a click on what is examined."""
    reach: Floats
    """[S, R, C], that an item is examined, given that its row is reached."""
    row: Floats
    """[S, R], that a row is reached."""
    leave: Floats
    """[S, R, C], that a row that was reached is left behind this item, without a click."""


@dataclass(frozen=True)
class CascadeModel:
    """Continuation by column and by row, and attractiveness by kind."""

    right: Floats
    """[C - 1], probability of going on from a column to the next."""
    down: Floats
    """[R - 1], probability of going on from a row to the next."""
    alpha: Floats
    """[K], probability that an item is clicked that is examined."""

    def examinations(self, pages: Pages) -> Floats:
        walk = self._walk(pages)
        return walk.row[:, :, None] * walk.reach

    def click_probabilities(self, pages: Pages) -> Floats:
        return self.examinations(pages) * self.alpha[pages.kinds]

    def log_likelihoods(self, pages: Pages) -> Floats:
        _check_single_clicks(pages)
        walk = self._walk(pages)
        chance = (walk.row[:, :, None] * walk.reach * walk.alpha * pages.clicked).sum(axis=(1, 2))
        # Without a click the person has given up behind some row.
        ended = (walk.row * walk.leave.sum(axis=2) * (1 - self._down)).sum(axis=1)
        return np.log(clipped(np.where(pages.clicked.any(axis=(1, 2)), chance, ended)))

    def simulate(self, kinds: NDArray[np.int64], rng: np.random.Generator) -> Pages:
        """Draw what people examine and click on pages of these [S, R, C] kinds."""
        num_pages, rows, columns = kinds.shape
        examined, clicked = np.zeros(kinds.shape, bool), np.zeros(kinds.shape, bool)
        is_there = np.ones(num_pages, bool)
        for r in range(rows):
            in_row = is_there.copy()
            for c in range(columns):
                examined[:, r, c] = in_row
                clicked[:, r, c] = in_row & (rng.random(num_pages) < self.alpha[kinds[:, r, c]])
                is_there &= ~clicked[:, r, c]
                in_row &= ~clicked[:, r, c] & (rng.random(num_pages) < self._right[c])
            is_there &= rng.random(num_pages) < self._down[r]
        return Pages(kinds, clicked, examined)

    @property
    def _right(self) -> Floats:
        return np.append(self.right, 0.0)

    @property
    def _down(self) -> Floats:
        return np.append(self.down, 0.0)

    def _walk(self, pages: Pages) -> _Walk:
        alpha = self.alpha[pages.kinds]
        passed = (1 - alpha) * self._right
        reach = np.concatenate([np.ones_like(alpha[..., :1]), passed[..., :-1].cumprod(axis=2)], axis=2)
        leave = reach * (1 - alpha) * (1 - self._right)
        onwards = leave.sum(axis=2) * self._down
        row = np.concatenate([np.ones_like(onwards[:, :1]), onwards[:, :-1].cumprod(axis=1)], axis=1)
        return _Walk(alpha, reach, row, leave)


def fit(pages: Pages, *, iterations: int = 200, tolerance: float = 1e-5) -> CascadeModel:
    """Fit to clicks alone by expectation maximisation.

    Args:
        tolerance: the largest change of a parameter at which it ends.

    Raises:
        ValueError: for a page with several clicks.
    """
    _check_single_clicks(pages)
    _, rows, columns = pages.kinds.shape
    model = CascadeModel(np.full(columns - 1, 0.5), np.full(rows - 1, 0.5), np.full(pages.num_kinds, 0.5))
    for _ in range(iterations):
        new = _maximised(model, pages)
        change = max(
            np.abs(a - b).max(initial=0.0)
            for a, b in ((new.right, model.right), (new.down, model.down), (new.alpha, model.alpha))
        )
        model = new
        if change < tolerance:
            break
    return model


def _maximised(model: CascadeModel, pages: Pages) -> CascadeModel:
    """Take one step of expectation maximisation."""
    reached, passed, goes_right = _expected(model, pages)
    num_kinds, kinds = len(model.alpha), pages.kinds.ravel()
    examined = np.where(pages.clicked, 1.0, passed)
    clicks: Floats = np.bincount(kinds, pages.clicked.ravel(), num_kinds).astype(np.float64)
    trials: Floats = np.bincount(kinds, examined.ravel(), num_kinds).astype(np.float64)
    # A row that was left is behind the person; in the row of the click nobody has left.
    left = reached - _clicked_rows(pages)
    right = share(goes_right.sum(axis=(0, 1))[:-1], passed.sum(axis=(0, 1))[:-1])
    return CascadeModel(right, share(reached[:, 1:].sum(axis=0), left[:, :-1].sum(axis=0)), share(clicks, trials))


def _expected(model: CascadeModel, pages: Pages) -> tuple[Floats, Floats, Floats]:
    """Find, given the clicks, the probabilities of the hidden steps.

    Returns:
        [S, R], that a row is reached; [S, R, C], that an item is examined without a click; [S, R, C], that the person
        then goes on to the next item of the row.
    """
    walk = model._walk(pages)  # pyright: ignore[reportPrivateUsage] (one module, one model)
    left = walk.leave.sum(axis=2)
    has_click = _clicked_rows(pages)
    clicked_row = has_click.argmax(axis=1)
    is_clicked = has_click.any(axis=1, keepdims=True)
    # Without a click: the person gave up behind row r with this probability, and so reached all rows up to it.
    ended = walk.row * left * (1 - np.append(model.down, 0.0))
    ended = ended / ended.sum(axis=1, keepdims=True)
    reached = np.where(
        is_clicked,
        np.arange(left.shape[1]) <= clicked_row[:, None],
        ended[:, ::-1].cumsum(axis=1)[:, ::-1],
    ).astype(np.float64)
    # A row without a click that was reached: where it was left.
    stops = walk.leave / left[..., None]
    in_passed_rows = reached[..., None] * stops[..., ::-1].cumsum(axis=2)[..., ::-1] * ~has_click[..., None]
    beyond = np.concatenate([in_passed_rows[..., 1:], np.zeros_like(in_passed_rows[..., :1])], axis=2)
    # The row of a click: everything before it was examined, and the person went on.
    before = pages.clicked[..., ::-1].cumsum(axis=2)[..., ::-1].astype(bool) & ~pages.clicked
    return reached, in_passed_rows + before, beyond + before


def _clicked_rows(pages: Pages) -> Bools:
    """Mark the rows with a click: [S, R]."""
    return np.asarray(pages.clicked.any(axis=2))


def _check_single_clicks(pages: Pages) -> None:
    counts = pages.clicked.sum(axis=(1, 2))
    if (counts > 1).any():
        page = int((counts > 1).argmax())
        raise ValueError(f"page {page} has {counts[page]} clicks; in a cascade the first click ends the visit")
