"""Judgments from behaviour: what a person clicked, among what the person examined."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Candidate, RankingExample
from rl_rerank_synth.shorter import one_grade


@dataclass(frozen=True)
class Observed:
    """Grades are 1 for clicked candidates and 0 for others, by the features `clicked` and `examined`.

    Scores are clicks weighted by one over the probability that the place is examined, the feature `examination`: their
    mean over visits is the relevance, whether or not gaze was recorded (inverse propensity scoring, Joachims et al.
    2017, https://arxiv.org/abs/1608.04468). Examples that are left with one grade, as visits without a click, are
    dropped and counted as `one_grade`; in those that stay, scores are relevance up to a factor of the visit.
    """

    unexamined: Literal["unjudged", "negative"] = "unjudged"
    """`unjudged`: candidates that the person did not examine have no grade, and no list with judged_only=true has them.
    `negative`: their grade is 0, as if they had been passed over."""
    floor: float = 0.05
    """Smaller probabilities are taken as this, which bounds the weight of one click."""

    def __post_init__(self) -> None:
        if self.unexamined not in ("unjudged", "negative"):
            raise ValueError(f"observed: unexamined must be unjudged or negative; got {self.unexamined!r}")
        if not 0 < self.floor <= 1:
            raise ValueError(f"observed: floor must be above 0 and at most 1; got {self.floor}")

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with grades, scores and the order by them.

        Raises:
            ValueError: naming the query and the document whose features are missing.
        """
        for example in examples:
            clicked = {c.docid: int(_feature(example, c, "clicked")) for c in example.candidates}
            judged = {
                c.docid: clicked[c.docid]
                for c in example.candidates
                if self.unexamined == "negative" or _feature(example, c, "examined")
            }
            context.counts["unexamined"] += len(clicked) - len(judged)
            made = replace(example, qrels=judged)
            if one_grade(made, list(judged), context):
                continue
            scores = {
                c.docid: clicked[c.docid] / max(_feature(example, c, "examination"), self.floor)
                for c in example.candidates
            }
            order = tuple(sorted(example.docids, key=lambda docid, scores=scores: -scores[docid]))
            said = {**example.provenance, context.name: f"clicks, unexamined {self.unexamined}"}
            yield replace(made, scores=scores, order=order, teachers=(), provenance=said)


def _feature(example: RankingExample, candidate: Candidate, name: str) -> float:
    value = candidate.features.get(name)
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(
            f"observed: qid {example.qid!r}, docid {candidate.docid!r}: the feature {name} must be a number from 0 to "
            f"1; got {value!r}"
        )
    return value
