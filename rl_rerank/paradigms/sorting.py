"""Sorting by asking: which of a few documents is the best. Both sorts stop when the top is settled."""

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias

from rl_rerank.paradigms.windows import windows
from rl_rerank.types import Judgment, Prompt

Asking: TypeAlias = Generator[list[Prompt], list[Judgment], str]
"""Yields rounds of prompts, is sent their judgments, returns the best document."""
Best: TypeAlias = Callable[[Sequence[str]], Asking]
"""Asks for the best of some documents. Of equal ones, and where an answer is unusable, the first is the best."""
Top: TypeAlias = Generator[list[Prompt], list[Judgment], list[str]]


def heap_top(docids: Sequence[str], k: int, children: int, best: Best) -> Top:
    """The best `k`, best first, by a heap whose nodes have up to `children` children.

    Asks once for every inner node, and then once a level wherever a document sinks. Equal documents keep their order.
    """
    heap = list(docids)
    given = {docid: place for place, docid in enumerate(docids)}

    def stable(family: Sequence[str]) -> Asking:
        # A heap brings later documents to the front. Were a parent to win its ties, equal ones would come out reversed.
        return best(sorted(family, key=given.__getitem__))

    for node in range((len(heap) - 2) // children, -1, -1):
        yield from _sink(heap, node, children, stable)
    top: list[str] = []
    while heap and len(top) < k:
        top.append(heap[0])
        last = heap.pop()
        if heap and len(top) < k:
            heap[0] = last
            yield from _sink(heap, 0, children, stable)
    return top


def _sink(heap: list[str], node: int, children: int, best: Best) -> Generator[list[Prompt], list[Judgment], None]:
    while (first := children * node + 1) < len(heap):
        family = [node, *range(first, min(first + children, len(heap)))]
        winner = yield from best([heap[i] for i in family])
        place = next(i for i in family if heap[i] == winner)
        if place == node:
            return
        heap[node], heap[place] = heap[place], heap[node]
        node = place


def bubble_top(docids: Sequence[str], k: int, children: int, best: Best) -> Top:
    """The best `k`, best first: pass after pass, windows of `children` + 1 from the back put their best at the head.

    Neighbouring windows share one document. A pass ends where the passes before it have settled the top.
    """
    order = list(docids)
    for settled in range(min(k, len(order) - 1)):
        for start, end in windows(len(order) - settled, children + 1, children):
            head = settled + start
            winner = yield from best(order[head : settled + end])
            place = order.index(winner)
            order[head], order[place] = order[place], order[head]
    return order[:k]


def remembering(best: Best) -> Best:
    """Asks about a set once, however often it comes up again and in whatever order."""
    known: dict[frozenset[str], str] = {}

    def ask(docids: Sequence[str]) -> Asking:
        key = frozenset(docids)
        if key not in known:
            known[key] = yield from best(docids)
        return known[key]

    return ask
