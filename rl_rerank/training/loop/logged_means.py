"""Means of logged values over the micro-batches and processes since the last log, whatever their sizes."""

from collections.abc import Mapping

from accelerate.utils import gather_object


class LoggedMeans:
    """Means of values by name, each weighted by what it is a mean of; names that end in /min and /max have these."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, values: Mapping[str, float], weight: float) -> None:
        """Add the values of a micro-batch."""
        for name, value in values.items():
            self._sums[name] = _joined(name, self._sums.get(name), (value * weight, weight))

    def take(self) -> dict[str, float]:
        """Return the means over all processes, all of which must call it, and begin anew."""
        found: dict[str, tuple[float, float]] = {}
        # A composed reward may have had a part on some processes only.
        for one in gather_object([self._sums]):
            for name, own in one.items():
                found[name] = _joined(name, found.get(name), own)
        self._sums = {}
        return {name: total / weight for name, (total, weight) in found.items()}


def _joined(name: str, one: tuple[float, float] | None, other: tuple[float, float]) -> tuple[float, float]:
    """Join two pairs of a weighted sum and its weight."""
    if one is None:
        return other
    if name.endswith(("/min", "/max")):
        choose = min if name.endswith("/min") else max
        return choose(one, other, key=lambda pair: pair[0] / pair[1])
    return one[0] + other[0], one[1] + other[1]
