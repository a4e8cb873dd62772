"""How close scores are to a gold distribution."""

import math
from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import js, kl, normalised
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import gold_scores, need_several


@dataclass(frozen=True)
class Alignment:
    """1 - JS(P, Q) of the scores' and the gold distribution, in [0, 1]; `malformed` if not well formed.

    P are the completion's scores and Q the example's (its grades where it has none), both made to sum to 1 by
    `normaliser` with `smoothing`. JS lies in [0, log_base 2]. With divergence=kl the value is exp(-KL(Q || P)), in
    [0, 1].

    Paradigms: groupwise.

    Source: the alignment term of GroupRank, https://arxiv.org/abs/2511.11653. The paper does not say how scores become
    distributions: the normaliser and the smoothing are our reconstruction.
    """

    divergence: str = "js"
    """`js` or `kl`."""
    base: float = 2.0
    """Of the logarithm of JS: 2 is bits, 2.718281828 nats, in which no value is below 1 - ln 2."""
    normaliser: str = "sum"
    """`sum` or `softmax`."""
    temperature: float = 1.0
    """Of the softmax."""
    smoothing: float = 1e-6
    """Added to every score under `sum`, so that scores that are all 0 are uniform."""
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ("groupwise",)
    unclaimed: ClassVar[dict[str, str]] = {
        "pays_constant": "a divergence is convex: equal scores are closer to gold than permuted ones"
    }

    def __post_init__(self) -> None:
        if self.divergence not in ("js", "kl"):
            raise ValueError(f"alignment: divergence must be js or kl; got {self.divergence!r}")
        if self.base < 2:
            raise ValueError(f"alignment: base must be at least 2, or 1 - JS can be negative; got {self.base}")

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("alignment", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        p = self._distribution([rollout.judgment.scores[docid] for docid in rollout.prompt.docids])
        q = self._distribution(gold_scores(example, rollout))
        return 1 - js(p, q, base=self.base) if self.divergence == "js" else math.exp(-kl(q, p, base=math.e))

    def _distribution(self, scores: list[float]) -> list[float]:
        return normalised(scores, how=self.normaliser, smoothing=self.smoothing, temperature=self.temperature)
