"""A gate tiers over how well formed a completion is."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class Format:
    """The value of the tier that a completion reaches: tags < answer < ids < ok.

    The defaults are ours; published systems use ladders of their own.

    Paradigms: all.
    """

    ok: float = 0.0
    ids: float = -0.1
    answer: float = -0.3
    tags: float = -0.5

    paradigms: ClassVar[tuple[str, ...]] = ("listwise", "groupwise", "setwise", "pairwise", "pointwise")
    unclaimed: ClassVar[dict[str, str]] = {"orders": "it reads the form of an answer alone"}

    def __post_init__(self) -> None:
        if not self.tags <= self.answer <= self.ids <= self.ok:
            raise ValueError(
                "format: the tiers must not fall from worse to better: tags <= answer <= ids <= ok; got "
                f"{self.tags}, {self.answer}, {self.ids}, {self.ok}"
            )

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        status = rollout.judgment.status.value
        return getattr(self, "ids" if status == "repaired" else status)
