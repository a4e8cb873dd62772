"""A small set of answers as a prefix tree of token decisions.

Most answer sets, such as yes/no or document letters, differ in their first token and need one decision. If answers
share a prefix, as 1 and 10 or [1] and [2] do, each prefix where they branch is a decision; ending the turn may be one
of its options.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rl_rerank.prompts.rendering import Renderer

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Decisions:
    """The branching points of an answer set."""

    beginnings: tuple[Ids, ...]
    """The answer's token ids before each decision."""
    options: tuple[Ids, ...]
    """The candidate next tokens at each decision."""
    paths: tuple[tuple[tuple[int, int], ...], ...]
    """The (decision, option) pairs that lead to each answer."""


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
