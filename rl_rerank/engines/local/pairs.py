"""What engines share that give one number x for a query and a document, the log-odds of relevance.

They see only the query and the document of a pointwise prompt. The positive answer has the log-probability
log sigmoid(x) and the negative one log sigmoid(-x), so that a document's score, their difference, is x. Of a pairwise
prompt a cross-encoder sees the query and both documents, and x is the log-odds that the first one is better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


SEPARATOR = " | "
"""Between two documents, which are one text to the model."""
_MARKS = 8
"""Tokens that separators and the model's own tokens may take beside a query and two documents."""


@dataclass(frozen=True)
class PairTexts:
    """The two texts of a prompt that a cross-encoder reads, in training and in inference."""

    tokenizer: Any
    max_tokens: int
    """Of both texts with the model's own tokens."""
    max_passage_tokens: int | None
    """Of one document; None: limited by `max_tokens` only."""

    def __call__(self, prompt: Prompt) -> tuple[str, str]:
        """Return the query, and the document; or both documents, each with half of the room behind the query.

        Raises:
            ValueError: unless the prompt shows one document or two.
        """
        if len(prompt.docids) != 2:
            query, document = split(prompt, "cross-encoder")
            return query, self._cut(document, self.max_passage_tokens)
        theirs = [segment for message in prompt.messages for segment in message.segments if not segment.is_ours]
        query = " ".join(segment.text for segment in theirs if segment.docid is None)
        asked = len(self.tokenizer(query, add_special_tokens=False, verbose=False)["input_ids"])
        room = max((self.max_tokens - asked - _MARKS) // 2, 1)
        limit = room if self.max_passage_tokens is None else min(room, self.max_passage_tokens)
        documents = [" ".join(s.text for s in theirs if s.docid == docid) for docid in prompt.docids]
        return query, SEPARATOR.join(self._cut(document, limit) for document in documents)

    def _cut(self, document: str, limit: int | None) -> str:
        if limit is None:
            return document
        ends = self.tokenizer(document, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        kept = ends["offset_mapping"][:limit]
        return document[: kept[-1][1] if kept else 0]


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
