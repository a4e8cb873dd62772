"""Sequences whose items are made when they are read, so that a stage begins before it has made what it will need."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar, overload

T = TypeVar("T")

KEPT = 64
"""Items that stay in memory: the last ones read."""


class OnIndex(Sequence[T]):
    """A sequence of `length` items, of which `make` makes the one at an index, the same whenever it is made.

    Args:
        kept: items that stay in memory.
    """

    def __init__(self, length: int, make: Callable[[int], T], *, kept: int = KEPT) -> None:
        self._length = length
        self._made = lru_cache(kept)(make)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(self._length)[index]
        return self._made(places) if isinstance(places, int) else [self._made(place) for place in places]
