"""Clusters of texts that say nearly the same, found exactly and without comparing every pair."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping

SHINGLE = 5
"""Words in a shingle."""
THRESHOLD = 0.8
"""Jaccard similarity of two shingle sets from which on the texts are near duplicates."""


def clusters(texts: Mapping[str, str]) -> dict[str, str]:
    """Name -> the smallest name of its cluster. Near duplicates of near duplicates share a cluster.

    Source: prefix filtering, Chaudhuri et al. 2006, https://doi.org/10.1109/ICDE.2006.9: two sets that are similar
    enough share one of their few rarest shingles, so that only those need an index.
    """
    sets = {name: shingles(text) for name, text in texts.items()}
    frequency = Counter(shingle for members in sets.values() for shingle in members)
    union = Union(sets)
    index: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in sorted(sets, key=lambda name: (len(sets[name]), name)):
        members = sets[name]
        rarest = sorted(members, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rarest[: len(members) - math.ceil(THRESHOLD * len(members)) + 1]
        for other in {other for shingle in prefix for other in index[shingle]}:
            if union.find(other) != union.find(name) and similarity(members, sets[other]) >= THRESHOLD:
                union.join(name, other)
        for shingle in prefix:
            index[shingle].append(name)
    return {name: union.find(name) for name in sets}


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The runs of `SHINGLE` words, lower case without punctuation; a shorter text is one run."""
    words = re.findall(r"\w+", text.lower())
    last = max(len(words) - SHINGLE, 0)
    return frozenset(tuple(words[start : start + SHINGLE]) for start in range(last + 1))


def similarity(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Jaccard similarity of two sets that are not empty."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


class Union:
    """Disjoint sets of names; a set is known by its smallest name."""

    def __init__(self, names: Mapping[str, object]) -> None:
        self._parent = {name: name for name in names}

    def find(self, name: str) -> str:
        """The name by which the set of `name` is known."""
        while self._parent[name] != name:
            self._parent[name] = name = self._parent[self._parent[name]]
        return name

    def join(self, a: str, b: str) -> None:
        """Make one set of two."""
        low, high = sorted((self.find(a), self.find(b)))
        self._parent[high] = low
