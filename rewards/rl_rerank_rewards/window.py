"""What rewards look up about the documents of a prompt."""

from collections.abc import Mapping

from rl_rerank.metrics import by_place
from rl_rerank.types import RankingExample, Rollout

ORDERS = ("listwise", "groupwise", "first_token")
"""The paradigms that order several documents."""
WRITTEN = ("listwise", "groupwise", "setwise", "pairwise", "pointwise", "pointwise_graded")
"""The paradigms whose answers are text."""


def window_qrels(example: RankingExample, rollout: Rollout) -> dict[str, int]:
    """The grades of the prompt's documents; unjudged ones have 0."""
    grade = example.qrels.get
    return {docid: grade(docid, 0) for docid in rollout.prompt.docids}


def need_several(name: str, rollout: Rollout) -> None:
    """Refuse a prompt of one document, which has only one order."""
    if len(rollout.prompt.docids) < 2:
        raise ValueError(f"{name} needs prompts of at least 2 documents: one document has only one order")


def gold_order(example: RankingExample, rollout: Rollout) -> Mapping[str, float]:
    """The example's order of the prompt's documents as scores, those that it leaves out tied at its end.

    Where the example has no order it is the one by grades, with its ties.
    """
    if example.order is None:
        return {docid: float(example.gain(docid)) for docid in rollout.prompt.docids}
    places = by_place(example.order)
    return {docid: places.get(docid, 0.0) for docid in rollout.prompt.docids}


def gold_scores(example: RankingExample, rollout: Rollout) -> list[float]:
    """The example's scores of the prompt's documents, or their grades where it has no scores; in prompt order.

    Raises:
        ValueError: if the example scores some of the prompt's documents only.
    """
    if example.scores is None:
        return [float(example.gain(docid)) for docid in rollout.prompt.docids]
    return [reference_score(example, docid) for docid in rollout.prompt.docids]


def reference_score(example: RankingExample, docid: str) -> float:
    """The example's score of a document.

    Raises:
        ValueError: if it has none.
    """
    if example.scores is None or docid not in example.scores:
        raise ValueError(f"qid {example.qid!r} has no reference score for the document {docid!r}: fill `scores`")
    return example.scores[docid]
