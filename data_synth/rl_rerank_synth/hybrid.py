"""Two retrievers' scores made into one list of candidates."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample


@dataclass(frozen=True)
class Hybrid:
    """weight * a + (1 - weight) * b, both mapped to [0, 1] over the example's candidates; what is not found has 0.

    The default is GroupRank's, https://arxiv.org/abs/2511.11653. Judged relevant documents that neither step has found
    stay behind the others.
    """

    first: str = "bm25"
    """The name of a step that searched."""
    second: str = "dense"
    weight: float = 0.5
    depth: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.depth < 1:
            raise ValueError(
                f"hybrid: weight must be from 0 to 1 and depth at least 1; got {self.weight} and {self.depth}"
            )

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with their candidates in the fused order, `depth` of them and the relevant ones."""
        for example in examples:
            first, second = (_unit(example, f"{name}_score") for name in (self.first, self.second))
            fused = {
                docid: self.weight * first.get(docid, 0.0) + (1 - self.weight) * second.get(docid, 0.0)
                for docid in {**first, **second}
            }
            order = sorted(fused, key=lambda docid, fused=fused: (-fused[docid], docid))[: self.depth]
            kept = [
                replace(example.candidate(docid), rank=rank, score=fused[docid])
                for rank, docid in enumerate(order, start=1)
            ]
            missed = [c for c in example.candidates if c.docid not in fused and example.qrels.get(c.docid, 0) > 0]
            said = f"{self.first} x {self.weight:g} + {self.second} x {1 - self.weight:g}"
            provenance = {**example.provenance, context.name: said}
            yield replace(example, candidates=(*kept, *missed), provenance=provenance)


def _unit(example: RankingExample, feature: str) -> dict[str, float]:
    """The feature of the candidates that have it, mapped to [0, 1]; 1 where all have the same."""
    values = {c.docid: float(c.features[feature]) for c in example.candidates if feature in c.features}
    low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
    return {docid: (value - low) / (high - low) if high > low else 1.0 for docid, value in values.items()}
