"""The layout of a packed row: a prefix tree of token sequences, written in depth-first order.

Sequences that begin alike share these tokens: a query's documents share instruction and query, a prompt is shared by
its completions, and both at once. The row holds every node of the compressed tree, a segment, behind its parent:

    [instruction + query] [document 1 + answer] [document 2] [answer 1] [answer 2] ...

Each token sees the segments on the way from the root to its own, and its own up to itself. In depth-first order the
tokens that see a segment are those from itself to the end of its subtree, one contiguous range: token q sees token k
if, and only if, k <= q < end[k].
"""

# Shape legend: T tokens of the row, Q of them that are computed, S segments, M labels.

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]

Labelled: TypeAlias = "tuple[Sequence[int], int]"
"""Token ids of a sequence, and the number of the first one that is a label."""


class Segment(NamedTuple):
    """Consecutive tokens of the row with one parent."""

    start: int
    """Place of its first token in the row."""
    length: int
    parent: int
    """Number of the segment that it continues; -1 for none."""
    depth: int
    """Position of its first token: the number of tokens before it on the way from the root."""
    end: int
    """Place behind its subtree."""

    @property
    def stop(self) -> int:
        """Place behind its last token."""
        return self.start + self.length


class Layout:
    """The segments of a row, each behind its parent, in depth-first order.

    Args:
        given: tokens at the beginning of the row, a segment of their own, whose keys and values come from another
            forward. They are no queries.
    """

    def __init__(self, segments: Sequence[Segment], given: int = 0) -> None:
        self.segments = tuple(segments)
        self.given = given
        self.length = self.segments[-1].stop if self.segments else 0
        """T."""
        self._made: dict[Any, Any] = {}

    @functools.cached_property
    def longest(self) -> int:
        """Number of tokens of the longest sequence."""
        return max(segment.depth + segment.length for segment in self.segments)

    @functools.cached_property
    def positions(self) -> Ints:
        """[T] position of each token in its sequence, from 0."""
        return np.concatenate([np.arange(s.depth, s.depth + s.length) for s in self.segments])

    @functools.cached_property
    def ends(self) -> Ints:
        """[T]: the place behind the subtree of each token's segment."""
        return np.repeat([s.end for s in self.segments], [s.length for s in self.segments])

    @property
    def computed(self) -> list[tuple[int, Segment]]:
        """The segments that are computed, each with its number."""
        return [(number, s) for number, s in enumerate(self.segments) if s.start >= self.given]

    def ancestors(self, number: int) -> list[Segment]:
        """List the segments on the way from the root to a segment, without itself."""
        found: list[Segment] = []
        parent = self.segments[number].parent
        while parent >= 0:
            found.append(self.segments[parent])
            parent = found[-1].parent
        return found[::-1]

    def once(self, key: Any, make: Any) -> Any:
        """Return what `make` returns for this layout, computed once a key: all layers of a model need the same."""
        if key not in self._made:
            self._made[key] = make(self)
        return self._made[key]


@dataclass(frozen=True)
class Packed:
    """A packed row with the tokens whose log-probabilities are asked for."""

    input_ids: Tensor
    """[Q]."""
    layout: Layout
    places: Tensor
    """[M]: the place among the computed tokens that predicts each label, sequence by sequence."""
    labels: Tensor
    """[M]: token ids."""
    sequences: Sequence[Labelled]
    """What was packed, in the order in which it was given."""

    @property
    def counts(self) -> list[int]:
        """Number of labels of each sequence."""
        return [len(ids) - first for ids, first in self.sequences]

    def behind(self, given: int) -> Packed:
        """Leave out the first tokens of the row, whose keys and values come from another forward.

        Args:
            given: their number, at least 1. All sequences begin with them and with the token behind them.
        """
        root, *others = self.layout.segments
        assert 0 < given < root.length and root.end == self.layout.length
        cut = [
            Segment(0, given, -1, 0, root.end),
            Segment(given, root.length - given, 0, given, root.end),
            *(segment._replace(parent=segment.parent + 1) for segment in others),
        ]
        rest = (self.input_ids[given:], Layout(cut, given), self.places - given)
        return Packed(*rest, self.labels, self.sequences)

    def to(self, device: torch.device) -> Packed:
        """Move the tensors."""
        moved = (self.input_ids.to(device), self.places.to(device), self.labels.to(device))
        return Packed(moved[0], self.layout, moved[1], moved[2], self.sequences)


def pack(sequences: Sequence[Labelled]) -> Packed:
    """Lay out sequences as one row.

    Args:
        sequences: tokens from the first label on are labels. The last token of each is predicted and not read.

    Raises:
        ValueError: if a sequence has no token before its first label, or no label.
    """
    for ids, first in sequences:
        if not 1 <= first < len(ids):
            raise ValueError(f"a sequence of {len(ids)} tokens cannot have its first label at {first}")
    arrays = [np.asarray(ids, dtype=np.int64) for ids, _ in sequences]
    # Bytes compare fast. Their order need not be that of the ids, but equal beginnings have to be neighbours; ids of
    # images have 60 bits.
    keys = [array[:-1].astype(">i8").tobytes() for array in arrays]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    longest = max(map(len, arrays))
    places = np.zeros(longest, dtype=np.int64)  # of each token of the current sequence, in the row
    runs: list[tuple[int, int, int]] = []  # (start, depth, place of the token before it or -1)
    row: list[Ints] = []
    found: list[Ints] = [np.zeros(0, dtype=np.int64)] * len(arrays)
    total, before = 0, np.zeros(0, dtype=np.int64)
    for number in order:
        ids = arrays[number][:-1]
        shared = _common(before, ids)
        if shared < len(ids):
            runs.append((total, shared, int(places[shared - 1]) if shared else -1))
            row.append(ids[shared:])
            places[shared : len(ids)] = np.arange(total, total + len(ids) - shared)
            total += len(ids) - shared
        # Sorted, a sequence that another one continues comes first, so its tokens are all in the row.
        found[number] = places[sequences[number][1] - 1 : len(ids)].copy()
        before = ids
    labels = [array[first:] for array, (_, first) in zip(arrays, sequences, strict=True)]
    return Packed(
        torch.from_numpy(np.concatenate(row)),
        Layout(_segments(runs, total)),
        torch.from_numpy(np.concatenate(found)),
        torch.from_numpy(np.concatenate(labels)),
        sequences,
    )


def _common(one: Ints, other: Ints) -> int:
    """Count the tokens with which both begin."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


def _segments(runs: Sequence[tuple[int, int, int]], total: int) -> list[Segment]:
    """Cut runs of new tokens where others branch off, and find each piece's parent and the end of its subtree."""
    depths = {start: depth for start, depth, _ in runs}
    behind = {start: before for start, _, before in runs}
    # A branch behind the last token of a run cuts nothing, but what follows there is another run's start.
    cuts = sorted({*depths, *(before + 1 for _, _, before in runs if before >= 0)} - {total})
    ends_at: dict[int, int] = {}  # place of a segment's last token -> its number
    found: list[Segment] = []
    for number, (start, stop) in enumerate(zip(cuts, [*cuts[1:], total], strict=True)):
        if start in depths:
            parent = ends_at[behind[start]] if behind[start] >= 0 else -1
            depth = depths[start]
        else:
            parent, depth = number - 1, found[-1].depth + found[-1].length
        ends_at[stop - 1] = number
        found.append(Segment(start, stop - start, parent, depth, stop))
    ends = [segment.end for segment in found]
    for number in range(len(found) - 1, -1, -1):
        if (parent := found[number].parent) >= 0:
            ends[parent] = max(ends[parent], ends[number])
    return [segment._replace(end=end) for segment, end in zip(found, ends, strict=True)]
