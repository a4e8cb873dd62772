"""The order of training queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(kw_only=True)
class CurriculumConfig:
    """Sample some queries earlier than others; in ranking losses, weight some pairs or documents more at first."""

    kind: Literal["reciprank", "normscore", "kdescore", "pass_rate"] = "reciprank"
    """reciprank, normscore, kdescore: first-stage quality of a query, by ranks or scores. pass_rate: share of good
    answers by the policy so far. Formulas: rl_rerank/training/loop/curriculum.py."""
    steps: int = 20
    """First-stage curricula: the step from which all queries are equally likely, and all weights are 1 (m)."""
    anti: bool = False
    """First-stage curricula: hard queries, pairs or documents first, as a control."""
    pass_reward: float = 0.5
    """pass_rate: minimum weighted reward of a good answer."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"curriculum: steps must be at least 1; got {self.steps}")
        if self.anti and self.kind == "pass_rate":
            raise ValueError("curriculum: anti turns a first-stage curriculum round; pass_rate has no such control")
