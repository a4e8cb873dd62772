"""What the documents of a list are trained towards: judgments, a teacher's scores, or a gold order."""

# Shape legend: N examples.

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from rl_rerank.config import ListTargets
from rl_rerank.data.indexed import Column, grade_counts, outlines
from rl_rerank.types import RankingExample


class Targeted(NamedTuple):
    """An example with the targets of its candidates."""

    shown: RankingExample
    """The candidates that lists may have, with the example's own judgments."""
    ranked: RankingExample
    """The same with grades in the order of the targets, equal where these are."""
    values: Mapping[str, float]
    """docid -> target."""


def targeted(example: RankingExample, targets: ListTargets, *, needs_judgments: bool = False) -> Targeted:
    """Find the targets of an example's candidates.

    Args:
        needs_judgments: whether each document must also be judged, because its correct answer follows from that.

    Raises:
        ValueError: naming the query and the document that has no score, no place in the order, or no judgment.
    """
    known = _known(example, targets.target)
    if targets.judged_only:
        example = replace(example, candidates=tuple(c for c in example.candidates if c.docid in known))
    if targets.target == "grades":
        return Targeted(example, example, {docid: float(example.gain(docid)) for docid in example.docids})
    for docid in example.docids:
        if docid not in known:
            lacks = "teacher's score" if targets.target == "scores" else "place in the gold order"
            raise ValueError(
                f"qid {example.qid!r}, docid {docid!r}: target={targets.target} needs a {lacks} of every candidate, "
                "and this one has none; judged_only=true leaves such candidates out, and steps such as rank and "
                "run_scores give scores and orders"
            )
        if needs_judgments and docid not in example.qrels:
            raise ValueError(
                f"qid {example.qid!r}, docid {docid!r}: nobody has judged it, so the correct answer, which "
                "answer_weight trains, is not known; answer_weight=0 trains the scores alone, and the step grade makes "
                "judgments of scores"
            )
    values = {docid: known[docid] for docid in example.docids}
    levels = {value: level for level, value in enumerate(sorted(set(values.values())))}
    return Targeted(example, replace(example, qrels={docid: levels[values[docid]] for docid in values}), values)


def require_scores(examples: Sequence[RankingExample], targets: ListTargets, place: str) -> None:
    """Refuse examples with candidates in their lists that have no teacher's score.

    Args:
        place: the setting that needs the scores.

    Raises:
        ValueError: naming the query and the document.
    """
    for example in outlines(examples):
        known = example.scores or {}
        for docid in targeted(example, targets).shown.docids:
            if docid not in known:
                raise ValueError(
                    f"{place}: qid {example.qid!r}, docid {docid!r} has no teacher's score; steps such as rank and "
                    "run_scores give scores (`scores` of an example), and so can a jsonl collection"
                )


def target_counts(
    examples: Sequence[RankingExample], targets: ListTargets, *, needs_judgments: bool
) -> tuple[Column, Column]:
    """Count each example's candidates of its highest target, and of lower ones: two [N].

    Raises:
        ValueError: as `targeted` does.
    """
    if targets.target == "grades" and not targets.judged_only:
        return grade_counts(examples)
    return grade_counts(targeted(e, targets, needs_judgments=needs_judgments).ranked for e in outlines(examples))


def _known(example: RankingExample, target: str) -> Mapping[str, float]:
    if target == "scores":
        return example.scores or {}
    if target == "order":
        order = example.order or ()
        return {docid: float(len(order) - place) for place, docid in enumerate(order)}
    return example.qrels
