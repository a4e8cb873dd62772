"""What engines share that give one number x for a query and a document, the log-odds of relevance.

They see only the query and the document of a pointwise prompt. The positive answer has the log-probability
log sigmoid(x) and the negative one log sigmoid(-x), so that a document's score, their difference, is x.
"""

import math
from collections.abc import Sequence

from rl_rerank.types import Completion, Prompt


def split(prompt: Prompt, noun: str) -> tuple[str, str]:
    """Split a prompt into the query with its instruction, and the document with its title.

    Args:
        noun: the kind of model, for the error.

    Raises:
        ValueError: unless the prompt shows one document.
    """
    if len(prompt.docids) != 1:
        raise ValueError(
            f"a {noun} scores one document a prompt; the {prompt.paradigm} prompt of qid {prompt.qid!r} "
            f"shows {len(prompt.docids)}"
        )
    theirs = [segment for message in prompt.messages for segment in message.segments if not segment.is_ours]
    query = " ".join(segment.text for segment in theirs if segment.docid is None)
    return query, " ".join(segment.text for segment in theirs if segment.docid is not None)


def check_answers(continuations: Sequence[str], noun: str) -> None:
    """Refuse anything but a positive and a negative answer."""
    if len(continuations) != 2:
        raise ValueError(f"a {noun} scores a positive and a negative answer; got {list(continuations)}")


def scored(x: float, continuations: Sequence[str]) -> Completion:
    """Make the answer to a prompt: the log-probabilities of the positive and the negative answer, in this order."""
    scores = dict(zip(continuations, (_log_sigmoid(x), _log_sigmoid(-x)), strict=True))
    return Completion("", finish_reason="score", continuations=scores)


def _log_sigmoid(x: float) -> float:
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))
