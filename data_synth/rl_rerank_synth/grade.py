"""Judgments from a teacher's scores, where nobody has judged."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.shorter import one_grade


@dataclass(frozen=True)
class Grade:
    """A candidate's grade is the number of thresholds that its gold score reaches."""

    thresholds: list[float] = field(default_factory=lambda: [5.0])
    """Rising. With one, grades are 0 and 1."""
    keep: bool = False
    """Keep the judgments that there are; false: replace them all."""

    def __post_init__(self) -> None:
        if not self.thresholds or sorted(set(self.thresholds)) != list(self.thresholds):
            raise ValueError(f"grade: thresholds must rise; got {self.thresholds}")

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with judgments; one in which all have one grade is counted as `one_grade` and dropped."""
        for example in examples:
            if example.scores is None:
                raise LookupError(f"qid {example.qid!r} has no gold scores; a step such as rank gives some")
            grades = {docid: bisect_right(self.thresholds, score) for docid, score in example.scores.items()}
            qrels = {**grades, **example.qrels} if self.keep else grades
            said = f"scores of at least {', '.join(f'{t:g}' for t in self.thresholds)}"
            graded = replace(example, qrels=qrels, provenance={**example.provenance, context.name: said})
            if not one_grade(graded, graded.docids, context):
                yield graded
