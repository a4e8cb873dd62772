"""Embeddings of texts on disk, a file for every chunk of texts, so that work that was cut off continues there.

A file is named by the digest of the encoder, the role of the texts and the texts themselves. Runs and processes may
share a folder: whoever finds a chunk missing writes it, whole, and the same texts give the same file.

Shapes: N texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from rl_rerank.io import digest
from rl_rerank.io.files import replacing

CHUNK = 256
"""Texts of one file, which a kill can lose."""


class Embeddings:
    """The embeddings of one encoder's texts of one role, query or document, in a folder."""

    def __init__(self, folder: Path, encoder: str, role: Literal["query", "document"]) -> None:
        """
        Args:
            encoder: its digest.
        """
        self.folder = folder
        self.encoder = encoder
        self.role: Literal["query", "document"] = role

    def are_complete(self, texts: Sequence[str]) -> bool:
        """Whether all these texts are embedded."""
        return all(path.is_file() for _, path in self._chunks(texts))

    def fill(self, texts: Sequence[str], encode: Callable[[Sequence[str]], np.ndarray], progress: str) -> None:
        """Embed the chunks that are missing.

        Args:
            encode: maps texts to float32 [N, D].
            progress: label of a progress bar.
        """
        with tqdm(desc=progress, unit="text", total=len(texts)) as bar:
            for chunk, path in self._chunks(texts):
                if not path.is_file():
                    with replacing(path) as file:
                        np.save(file, encode(chunk), allow_pickle=False)
                bar.update(len(chunk))

    def read(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of texts that are complete, float32 [N, D]."""
        found = [np.load(path, allow_pickle=False) for _, path in self._chunks(texts)]
        return np.concatenate(found) if found else np.empty((0, 0), np.float32)

    def _chunks(self, texts: Sequence[str]) -> Iterator[tuple[Sequence[str], Path]]:
        # Chunks follow from the texts alone, so that a continued run forms the same batches as an uninterrupted one and
        # ends with the same numbers to the last bit.
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            yield chunk, self.folder / f"{digest.of_lines([self.encoder, self.role, *chunk])}.npy"
