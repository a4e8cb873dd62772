"""Settings for documents longer than a prompt, for fusing two rankings, and for feedback to a retriever."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rl_rerank.config.building import at_least


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

    @property
    def splits(self) -> bool:
        """Whether a document's score comes from those of its passages."""
        return self.mode in ("maxp", "sump")

    @property
    def described(self) -> str:
        """The mode with the settings that it reads."""
        if self.mode == "head":
            return self.mode
        names = ("sentences", "alpha") if self.mode == "quite" else ("words", "overlap")
        return f"{self.mode}({', '.join(f'{name}={getattr(self, name)}' for name in names)})"

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
class TunedWeight:
    """A weight that is chosen on development queries: 0, .05, ..., 1, whichever is best by a measure."""

    dev: list[str] = field(default_factory=list)
    """Names of the rerank stages that rank development queries with the fused systems: two for `fuse`, in its order, or
    the model's for a fusion with the first stage."""
    measure: str = "nDCG@10"


@dataclass(kw_only=True)
class FusionConfig:
    """Fusion of two rankings."""

    method: Literal["minmax", "zscore", "rrf", "sum"] = "minmax"
    """See rl_rerank/ranking/fusion.py."""
    weight: float | TunedWeight = 0.5
    """Weight of the model, or of the first run of `fuse`; the other one gets 1 - weight. `{dev: [...]}`: chosen on
    development queries."""

    def __post_init__(self) -> None:
        if not isinstance(self.weight, TunedWeight) and not 0 <= self.weight <= 1:
            raise ValueError(f"fusion.weight must be from 0 to 1, or {{dev: [STAGE, ...]}}; got {self.weight}")

    @property
    def tuned(self) -> TunedWeight | None:
        """How the weight is chosen; None if it is given."""
        return self.weight if isinstance(self.weight, TunedWeight) else None

    @property
    def known_weight(self) -> float:
        """The weight, given or already chosen."""
        assert not isinstance(self.weight, TunedWeight), "a stage chooses the weight before it fuses"
        return self.weight


@dataclass(kw_only=True)
class FeedbackConfig:
    """Move a dense first stage's query vectors towards a reranker's order, and search the collection again."""

    of: str
    """Name of an earlier rerank stage of the same queries, whose order is learned."""
    top: int = 20
    """Documents from the top of that order that are learned; the others are not."""
    steps: int = 20
    """Steps of Adam on a query's vector, which alone is trained."""
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        at_least("feedback", self, top=2, steps=1)
        if not self.learning_rate > 0:
            raise ValueError(f"feedback: learning_rate must be above 0; got {self.learning_rate}")
