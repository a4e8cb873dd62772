"""The names of ranking losses and their parameters; rl_rerank/training/losses has what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl_rerank.config.building import one_of, unknown_key

RANKING_LOSSES: Mapping[str, Mapping[str, float | None]] = {
    "softmax": {},
    "listnet": {"temperature": 1.0},
    "listmle": {},
    "plackett_luce": {"k": 10},
    "bce": {"relevant": 1},
    "hinge": {"margin": 1.0},
    "ranknet": {},
    "lambdarank": {"k": None},
    "first": {},
    "ranklist_style": {"skips": 3, "margin": 0.0, "temperature": 1.0},
    "anchored_hinge": {"margin": 0.1, "anchor_weight": 0.7, "levels": 5, "width": 0.1},
}
"""Name -> its parameters with their defaults; None: none."""
ANSWER_LOSSES: Mapping[str, Mapping[str, float | None]] = {"completion": {}, "fullrank": {"separator": 1.0}}
"""Losses on the tokens of synthesised answers."""


def check_loss(
    place: str, name: str, params: Mapping[str, Any], known: Mapping[str, Mapping[str, float | None]]
) -> None:
    """Refuse a loss that is not among the known ones, and parameters that it does not have.

    Args:
        place: where the loss is set, for the error.
    """
    one_of(f"{place}: loss", name, tuple(known))
    for key, value in params.items():
        if key not in known[name]:
            raise ValueError(unknown_key(f"{place}: loss_params.{key}", key, known[name]))
        default = known[name][key]
        if value is None and default is None:
            continue
        is_count = isinstance(default, int) or default is None
        is_number = isinstance(value, int if is_count else (int, float)) and not isinstance(value, bool)
        lowest = 1 if is_count else 0
        if not is_number or value is None or float(value) < lowest or (key == "temperature" and value == 0):
            what = "a whole number of at least 1" if is_count else "a number of at least 0"
            what = "a number above 0" if key == "temperature" else what
            raise ValueError(f"{place}: loss_params.{key} must be {what}; got {value!r}")
