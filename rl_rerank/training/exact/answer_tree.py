"""A prompt's few answers as decisions between tokens.

Most sets of answers, such as yes and no or the letters of documents, differ in their first token: one decision. Where
one answer begins another, as 1 begins 10, or all begin alike, as [1] and [2] do, there is a decision behind each
beginning at which they part; ending the turn is one of its options.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rl_rerank.prompts.rendering import Renderer

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Decisions:
    """The branching points of an answer set."""

    beginnings: tuple[Ids, ...]
    """Token ids behind the prompt, one for each decision."""
    options: tuple[Ids, ...]
    """The tokens of which one comes next at each decision."""
    paths: tuple[tuple[tuple[int, int], ...], ...]
    """For each answer the (decision, option) pairs that lead to it."""


def decisions(answers: Sequence[str], renderer: Renderer, *, restricted: bool = True) -> Decisions:
    """Build the decisions between `answers`, each followed by the end of the turn.

    Args:
        restricted: allow only tokens that lead to an answer, which leaves no decision where answers do not branch.

    Raises:
        ValueError: if two answers are the same tokens.
    """
    endings = [(*renderer.continuation_ids(text), renderer.end_id) for text in answers]
    for text, ending in zip(answers, endings, strict=True):
        if endings.count(ending) > 1:
            raise ValueError(f"the answer {text!r} has the same tokens as another one in this tokenizer")
    following: dict[Ids, list[int]] = {}
    for ending in endings:
        for length in range(len(ending)):
            after = following.setdefault(ending[:length], [])
            if ending[length] not in after:
                after.append(ending[length])
    parting = {beginning: tokens for beginning, tokens in following.items() if len(tokens) > 1 or not restricted}
    numbers = {beginning: number for number, beginning in enumerate(parting)}
    paths = tuple(
        tuple(
            (numbers[ending[:length]], parting[ending[:length]].index(ending[length]))
            for length in range(len(ending))
            if ending[:length] in parting
        )
        for ending in endings
    )
    return Decisions(tuple(parting), tuple(map(tuple, parting.values())), paths)
