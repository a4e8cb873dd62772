"""What verifying asks of a door."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from rl_rerank.serving.contract import GoldenScores


class Door(Protocol):
    """A program that scores with an exported folder."""

    def answer(self, golden: GoldenScores, /) -> GoldenScores:
        """Score an entry's documents for its query.

        Returns:
            The door's scores, with its prompts if they can be seen, and no prompts otherwise.

        Raises:
            ValueError: if the door refuses the entry.
        """
        ...

    def problems(self, golden: Sequence[GoldenScores], /) -> Iterator[str]:
        """Say which settings would change scores of other entries, or change them one day."""
        ...

    def close(self) -> None:
        """Free the model's memory, or end the server."""
        ...
