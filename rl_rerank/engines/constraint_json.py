"""JSON encoding of an output constraint, so that it can be sent to a vLLM process or server."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rl_rerank.prompts.constraints import Beginning, Permutation, Score, Scores
from rl_rerank.types import Constraint

KEY = "rl_rerank_constraint"
FORMS = {form.__name__: form for form in (Permutation, Beginning, Score, Scores)}
MOST = 1000
"""Maximum number in a constraint; checking answers about more documents would slow a server down."""


def carried(constraint: Constraint | None, end_id: int) -> dict[str, list[str | int]]:
    """Encode a constraint for a request: the form's name, the end token of an answer, and the form's numbers.

    Returns:
        An empty dict without a constraint.
    """
    if constraint is None:
        return {}
    assert dataclasses.is_dataclass(constraint)
    return {KEY: [type(constraint).__name__, end_id, *dataclasses.astuple(constraint)]}


def read(extra_args: Mapping[str, Any] | None) -> tuple[Constraint, int] | None:
    """Decode a request's constraint and the end token of its answer; None if it has no constraint.

    Raises:
        ValueError: if it is not in the format of `carried`.
    """
    asked = (extra_args or {}).get(KEY)
    if asked is None:
        return None
    values: list[Any] = asked if isinstance(asked, list) and asked else [None]
    name, numbers = values[0], values[1:]
    form = FORMS.get(name) if isinstance(name, str) else None
    if form is None or len(numbers) != 1 + len(dataclasses.fields(form)):
        raise ValueError(
            f"{KEY} must be a list of a form's name ({', '.join(FORMS)}), a token and its numbers: {asked!r}"
        )
    if not all(type(number) is int and number >= 0 for number in numbers) or max(numbers[1:]) > MOST or numbers[1] < 1:
        raise ValueError(f"{KEY}: numbers must be whole and from 1 to {MOST}, and the token 0 or more; got {asked!r}")
    return form(*numbers[1:]), numbers[0]
