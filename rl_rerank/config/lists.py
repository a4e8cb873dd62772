"""What the documents of training lists are trained towards, and how much each counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rl_rerank.config.curriculum import CurriculumConfig


@dataclass(kw_only=True)
class WeightsConfig:
    """Weights of documents from a feature of the candidates."""

    feature: str
    """Name of the feature, a number of at least 0, such as a label's confidence."""
    inverse: bool = False
    """Weight by 1 / max(feature, floor), where the feature is the probability that the document was examined (inverse
    propensity scoring, Joachims et al. 2017, https://arxiv.org/abs/1608.04468); false: by the feature itself."""
    floor: float = 0.05
    """inverse: the smallest probability that is divided by, which bounds the weights."""

    def __post_init__(self) -> None:
        if not 0 < self.floor <= 1:
            raise ValueError(f"weights: floor must be above 0 and at most 1; got {self.floor}")
        if self.floor != type(self).floor and not self.inverse:
            raise ValueError(f"weights: floor={self.floor} means nothing without inverse=true; leave it out")


@dataclass(kw_only=True)
class ListTargets:
    """Settings that all stages with ranking losses share."""

    target: Literal["grades", "scores", "order"] = "grades"
    """What lists are drawn and ranking losses computed by: the judgments; a teacher's scores (losses mse, margin_mse,
    soft_ranknet, list_kl); or the gold order, whose document at place i of n has the grade n - i + 1."""
    judged_only: bool = False
    """Leave candidates that the target says nothing of out of lists, such as those that nobody has judged or examined.
    false: unjudged candidates have grade 0, and those without a score or a place in the order are refused."""
    weights: WeightsConfig | None = None
    """Weights of documents in the ranking loss; null: all 1."""
    curriculum: CurriculumConfig | None = None
    """Weights in the ranking loss by the first stage's signal, of pairs, or of documents if it is pointwise; easy ones
    count more at first. null: all 1."""
