"""Scores of a written order, computed when somebody looks: a reward of orders reads the identifiers only."""

from collections.abc import Iterator, Mapping, Sequence

from rl_rerank.metrics.agreement import falling


class OrderScores(Mapping[str, float]):
    """docid -> n, n - 1, ..., 1 along an order of n documents; like a dict of these.

    Args:
        docids: of the documents 1, 2, ...
        ids: identifiers of n different ones, best first.
    """

    __slots__ = ("_docids", "_ids", "_scores")

    def __init__(self, docids: Sequence[str], ids: Sequence[int]) -> None:
        self._docids, self._ids = docids, ids
        self._scores: dict[str, float] | None = None

    def _made(self) -> dict[str, float]:
        if self._scores is None:
            ordered = [self._docids[i - 1] for i in self._ids]
            self._scores = dict(zip(ordered, falling(len(ordered)), strict=True))
        return self._scores

    def __getitem__(self, docid: str) -> float:
        return self._made()[docid]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return repr(self._made())
