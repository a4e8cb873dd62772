"""A few candidates out of many: relevant ones, and negatives by bands of ranks."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Candidate, RankingExample
from rl_rerank_synth.shorter import only


@dataclass(frozen=True)
class Bands:
    """Takes at random `count` of the candidates down to rank `last`, behind the band before, for each (last, count).

    ERank, https://arxiv.org/abs/2509.00520: positives=1, bands [[10, 10], [100, 5], [1000, 4]] are 20 documents with
    hard, medium and easy negatives. GroupRank, https://arxiv.org/abs/2511.11653, looks at no judgment: positives=null,
    bands [[10, 10], [200, 40]]. Rank-R1, https://arxiv.org/abs/2503.06034: positives=1, bands [[100, 19]]. What a band
    lacks is taken from the next ones. Candidates that a step has written are always kept. The order stays.
    """

    positives: int | None = 1
    """Judged relevant candidates that are kept, of the highest grades; bands are then of the others alone, and an
    example without one is dropped and counted as `without_positive`. null: bands are of all candidates."""
    bands: list[list[int]] = field(default_factory=lambda: [[10, 10], [100, 5], [1000, 4]])
    vary: bool = False
    """Keep 1 to all of the negatives that the bands gave, n of them with a probability in proportion to n, as Rank-R1
    v0.2 does, so that sets of several sizes are trained on."""
    size: int | None = None
    """Candidates at most; the last negatives give way."""
    relabel: bool = True
    """Count every relevant candidate that is not kept out of the judgments, so that no list is taken for incomplete."""

    def __post_init__(self) -> None:
        last = 0
        for band in self.bands:
            if len(band) != 2 or band[0] <= last or band[1] < 0:
                raise ValueError(
                    f"bands: a band is [last rank, count], with last ranks that rise and counts of 0 or more; got "
                    f"{self.bands}"
                )
            last = band[0]
        if self.positives is not None and self.positives < 1:
            raise ValueError(f"bands: positives must be at least 1, or null; got {self.positives}")

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with fewer candidates."""
        for example in examples:
            rng = random.Random(context.seed(example.qid))
            kept = {c.docid for c in example.candidates if "synthetic" in c.features}
            pool = [c for c in example.candidates if c.docid not in kept]
            if self.positives is not None:
                relevant = [c for c in pool if example.qrels.get(c.docid, 0) > 0]
                if not relevant:
                    context.counts["without_positive"] += 1
                    continue
                relevant.sort(key=lambda c, qrels=example.qrels: -qrels[c.docid])
                kept |= {c.docid for c in relevant[: self.positives]}
                pool = [c for c in pool if c not in relevant]
            negatives = self._negatives(pool, rng)
            if self.vary and negatives:
                counts = range(1, len(negatives) + 1)
                taken = rng.sample(range(len(negatives)), rng.choices(counts, weights=counts)[0])
                negatives = [negatives[i] for i in sorted(taken)]
            kept |= {c.docid for c in negatives[: None if self.size is None else max(self.size - len(kept), 0)]}
            qrels = {d: g for d, g in example.qrels.items() if d in kept} if self.relabel else example.qrels
            yield replace(only(example, kept), qrels=qrels)

    def _negatives(self, pool: list[Candidate], rng: random.Random) -> list[Candidate]:
        chosen: list[Candidate] = []
        wanted, first = 0, 1
        for last, count in self.bands:
            wanted += count
            band = [c for place, c in enumerate(pool, start=1) if first <= (c.rank or place) <= last]
            chosen += rng.sample(band, min(len(band), wanted - len(chosen)))
            first = last + 1
        return chosen
