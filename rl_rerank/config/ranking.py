"""Settings for documents longer than a prompt, and for fusing two rankings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(kw_only=True)
class LongDocumentsConfig:
    """Settings for documents longer than the prompt."""

    mode: Literal["head", "firstp", "maxp", "sump", "quite"] = "head"
    """head cuts to the prompt's budget; the others: see rl_rerank/ranking/long_documents.py."""
    words: int = 150
    """firstp, maxp, sump: words per passage."""
    overlap: int = 50
    """firstp, maxp, sump: words shared with the previous passage."""
    sentences: int = 3
    """quite: sentences per summary."""
    alpha: float = 0.5
    """quite: factor on the weight of a query word once it is covered."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.words:
            raise ValueError(
                f"long_documents.overlap must be from 0 to words - 1, or passages would not move on; got "
                f"overlap={self.overlap}, words={self.words}"
            )
        if self.sentences < 1:
            raise ValueError(f"long_documents.sentences must be at least 1; got {self.sentences}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"long_documents.alpha must lie between 0 and 1; got {self.alpha}")


@dataclass(kw_only=True)
class FusionConfig:
    """Fusion of two rankings."""

    method: Literal["minmax", "zscore", "rrf", "sum"] = "minmax"
    """See rl_rerank/ranking/fusion.py."""
    weight: float = 0.5
    """Weight of the model, or of the first run of `fuse`; the other one gets 1 - weight."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"fusion.weight must be from 0 to 1; got {self.weight}")
