"""The embedded collection of images: pages with handwritten numbers, composed of the digits that scikit-learn brings.

A query is a number of three digits. Its documents are small pages that show it, or a number with two of its digits in
the same places. Nothing but the page says which. The first stage knows nothing: its order is random.

The digits are the 1,797 of the UCI test set, https://archive.ics.uci.edu/dataset/80. A split has digits of its own, by
their place in that set, in which the digits of one writer mostly stand together.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rl_rerank.data.records import Collection, Document, Query
from rl_rerank.io import digest
from rl_rerank.io.cache import made_once

LENGTH = 3
"""Digits of a number."""
ENLARGED = 2
"""Pixels of a page for one of a digit, which has 8 x 8."""
SIDE = 48
PARTS = {"train": (0.0, 0.7), "dev": (0.7, 0.8), "test": (0.8, 1.0)}
"""Split -> the part of the set that its digits are from."""


@dataclass(frozen=True)
class Digits:
    """Pages with handwritten numbers; the images are written once, into the cache folder."""

    train: int = 300
    """Queries of a split."""
    dev: int = 50
    test: int = 300
    candidates: int = 8
    """Pages of one query, of which one is relevant."""
    text: bool = False
    """Whether a page has its number as a text too, for the same recipe without eyes."""
    seed: int = 0

    requires = ("sklearn",)

    def __post_init__(self) -> None:
        for name in PARTS:
            if getattr(self, name) < 1:
                raise ValueError(f"data.params.{name} must be at least 1; got {getattr(self, name)}")
        if not 2 <= self.candidates <= 1 + 9 * LENGTH:
            raise ValueError(
                f"data.params.candidates must be from 2 to {1 + 9 * LENGTH}, as many as there are numbers with at most "
                f"one other digit; got {self.candidates}"
            )

    def read(self) -> Collection:
        """Compose the pages that are not there yet."""
        folder = made_once(f"digits-{digest.of_json([asdict(self), self.state()])[:16]}", self._compose)
        documents: dict[str, Document] = {}
        queries: list[Query] = []
        qrels: dict[str, dict[str, int]] = {}
        runs: dict[str, list[tuple[str, float | None]]] = {}
        for split, qid, numbers in self._tasks():
            pages = {f"{qid}-{place}": number for place, number in enumerate(numbers)}
            for docid, number in pages.items():
                documents[docid] = Document("", number if self.text else "", (str(folder / f"{docid}.png"),))
            order = random.Random(f"{self.seed}:order:{qid}").sample(list(pages), len(pages))
            queries.append(Query(qid, numbers[0], split))
            qrels[qid] = {docid: int(number == numbers[0]) for docid, number in pages.items()}
            runs[qid] = [(docid, None) for docid in order]
        return Collection(documents, queries, qrels, runs)

    def state(self) -> str:
        """The versions of the digits and of what composes pages of them."""
        return f"1, scikit-learn=={version('scikit-learn')}"

    def _tasks(self) -> Iterator[tuple[str, str, Sequence[str]]]:
        """(split, qid, numbers of its pages, the first of which is sought) for every query."""
        for split in PARTS:
            for place in range(getattr(self, split)):
                rng = random.Random(f"{self.seed}:{split}:{place}")
                sought = "".join(rng.choices("0123456789", k=LENGTH))
                others = [
                    sought[:k] + other + sought[k + 1 :]
                    for k in range(LENGTH)
                    for other in "0123456789"
                    if other != sought[k]
                ]
                yield split, f"{split}{place}", (sought, *rng.sample(others, self.candidates - 1))

    def _compose(self, folder: Path) -> None:
        drawings = {split: _digits(*part) for split, part in PARTS.items()}
        for split, qid, numbers in self._tasks():
            for place, number in enumerate(numbers):
                rng = random.Random(f"{self.seed}:page:{qid}:{place}")
                _page(number, drawings[split], rng).save(folder / f"{qid}-{place}.png")


def _digits(begin: float, end: float) -> Mapping[str, Sequence[Any]]:
    """Digit -> its drawings, [8, 8] from 0 to 16, of a part of the set."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    first, behind = (round(share * len(found.target)) for share in (begin, end))
    drawings: dict[str, list[Any]] = defaultdict(list)
    for label, drawing in zip(found.target[first:behind], found.images[first:behind], strict=True):
        drawings[str(label)].append(drawing)
    return drawings


def _page(number: str, drawings: Mapping[str, Sequence[Any]], rng: random.Random) -> Any:
    """A page with the number, white on black, at a random height."""
    import numpy as np
    from PIL import Image

    page, size = np.zeros((SIDE, SIDE)), 8 * ENLARGED
    top = rng.randint(0, SIDE - size)
    for place, digit in enumerate(number):
        enlarged = np.kron(rng.choice(drawings[digit]), np.ones((ENLARGED, ENLARGED)))
        page[top : top + size, place * size : (place + 1) * size] = enlarged
    return Image.fromarray((page * 255 / 16).astype("uint8"))
