"""In which order training meets its queries."""

from __future__ import annotations

from dataclasses import dataclass

from rl_rerank.config.building import one_of

CURRICULA = ("reciprank", "normscore", "kdescore", "pass_rate")


@dataclass(kw_only=True)
class CurriculumConfig:
    """Which queries are likelier to be asked early."""

    kind: str = "reciprank"
    """By how well the first stage ranks a query: reciprank, normscore or kdescore, from its ranks or its scores. Or
    pass_rate: by how often the policy has answered it well so far. rl_rerank/training/loop/curriculum.py has their
    formulas."""
    steps: int = 20
    """First-stage curricula: the step from which all queries are alike (m)."""
    anti: bool = False
    """First-stage curricula: hard queries first, as a control."""
    pass_reward: float = 0.5
    """pass_rate: an answer is good whose weighted reward is at least this."""

    def __post_init__(self) -> None:
        one_of("curriculum: kind", self.kind, CURRICULA)
        if self.steps < 1:
            raise ValueError(f"curriculum: steps must be at least 1; got {self.steps}")
        if self.anti and self.kind == "pass_rate":
            raise ValueError("curriculum: anti turns a first-stage curriculum round; pass_rate has no such control")
