"""The lists of a training run as numbers: which example each is of, and which of its candidates it has.

The numbers depend on the seed and on how many candidates of each example have its highest grade. Neither texts nor
prompts are read, and no pass is drawn further than it is asked for.
"""

# Shape legend: N examples, L lists.

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Draw(NamedTuple):
    """The candidates of one list."""

    turn: int
    """The pass that it belongs to, from 0."""
    example: int
    chosen: tuple[int, Sequence[int]] | None = None
    """One of the candidates of the highest grade, and some of lower ones, by their places among these; None: all
    candidates."""


class Draws:
    """Lists in passes over the examples, each pass in a fresh order.

    Args:
        best, lower: [N], candidates of the highest grade and of lower ones. An example without lower ones has no list.
        size: documents of a list, one of the highest grade; None: all.
    """

    def __init__(self, best: NDArray[np.uint64], lower: NDArray[np.uint64], *, size: int | None, seed: int) -> None:
        self._best, self._lower = best, lower
        self._usable = np.flatnonzero(lower)
        self._size = size
        self._seed = seed
        self._passes: dict[int, _Pass] = {}

    def __len__(self) -> int:
        """The number of lists of a pass."""
        return len(self._usable)

    def __getitem__(self, number: int) -> Draw:
        turn, place = divmod(number, len(self))
        one = self._pass(turn)
        example = one.order[place]
        if self._size is None:
            return Draw(turn, example)
        while len(one.chosen) <= place * self._size:
            self._choose(one)
        first, *others = one.chosen[place * self._size : (place + 1) * self._size]
        return Draw(turn, example, (first, others[: int(self._lower[example])]))

    def num_documents(self, count: int) -> NDArray[np.int64]:
        """Count the documents of the first `count` lists, without drawing them: [L]."""
        lower = self._lower.astype(np.int64)
        each = self._best.astype(np.int64) + lower if self._size is None else 1 + np.minimum(self._size - 1, lower)
        found = [each[np.array(self._pass(turn).order)] for turn in range(-(-count // len(self)))]
        return np.concatenate(found)[:count]

    def _pass(self, turn: int) -> _Pass:
        if turn not in self._passes:
            rng = random.Random(f"{self._seed}:{turn}")
            order = rng.sample(range(len(self)), len(self))
            self._passes[turn] = _Pass(rng, array("I", self._usable[order].tolist()), array("I"))
        return self._passes[turn]

    def _choose(self, one: _Pass) -> None:
        """Draw the next list of a pass, whose draws follow one another in one random stream."""
        assert self._size is not None
        example = one.order[len(one.chosen) // self._size]
        best, lower = int(self._best[example]), int(self._lower[example])
        first = one.rng.choice(range(best))
        others = one.rng.sample(range(lower), min(self._size - 1, lower))
        one.chosen.extend((first, *others, *[0] * (self._size - 1 - len(others))))


class _Pass(NamedTuple):
    rng: random.Random
    order: array[int]
    """Numbers of examples."""
    chosen: array[int]
    """`size` numbers a list, of those drawn so far: what `Draw.chosen` has, and zeros where there are too few."""
