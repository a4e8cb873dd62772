"""Gold scores from a click log, free of position bias as far as the log allows."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth import click_log
from rl_rerank_synth.shorter import only


@dataclass(frozen=True)
class Clicks:
    """Each candidate's score is its click rate, with every click weighted by one over its rank's propensity.

    Candidates that the log has not shown for the query are dropped: nobody has passed them over. Examples that are left
    without one are counted as `not_in_log`.
    """

    path: str
    """The log, lines `{qid, docids: [...], clicks: [...]}`."""
    depth: int = 10
    """Ranks that have a propensity."""
    propensities: list[float] | None = None
    """Of the ranks from 1; null: estimated from the log, which must show documents at different ranks. All 1 is the
    plain click rate."""
    floor: float = 0.05
    """Smaller propensities are taken as this, which bounds the weight of one click."""
    thresholds: list[float] = field(default_factory=lambda: [0.2])
    """A candidate's grade is the number of these that its score reaches; empty: judgments stay as they are."""

    def __post_init__(self) -> None:
        if self.depth < 1 or not 0 < self.floor <= 1:
            raise ValueError(
                f"clicks: depth must be at least 1 and floor above 0, at most 1; got {self.depth} and {self.floor}"
            )
        if self.propensities is not None and not all(0 < p <= 1 for p in self.propensities):
            raise ValueError(f"clicks: propensities must be above 0, at most 1; got {self.propensities}")

    @property
    def reads_files(self) -> tuple[str, ...]:
        return (self.path,)

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples that are in the log, with scores, the order by them, and grades."""
        found = context.resources.shared(("clicks", context.name), self._read)
        for example in examples:
            scores = {docid: s for docid, s in found.get(example.qid, {}).items() if docid in example.docids}
            if not scores:
                context.counts["not_in_log"] += 1
                continue
            context.counts["documents"] += len(example.candidates) - len(scores)
            kept = only(example, scores)
            graded = {d: bisect_right(self.thresholds, s) for d, s in scores.items()} if self.thresholds else {}
            said = {**example.provenance, context.name: f"{Path(self.path).name}, {len(scores)} documents"}
            order = tuple(sorted(kept.docids, key=lambda docid, scores=scores: -scores[docid]))
            yield replace(kept, order=order, scores=scores, qrels=graded or example.qrels, teachers=(), provenance=said)

    def _read(self) -> dict[str, dict[str, float]]:
        log = click_log.count(click_log.read(Path(self.path)))
        known = self.propensities if self.propensities is not None else click_log.propensities(log, self.depth)
        return click_log.relevance(log, known, floor=self.floor)
