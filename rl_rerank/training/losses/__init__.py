"""Ranking losses by name, with one interface: `pairs.RankingLoss`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from rl_rerank.training.losses import listwise, pairwise
from rl_rerank.training.losses.pairs import RankingLoss

FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "softmax": listwise.softmax,
    "listnet": listwise.listnet,
    "listmle": listwise.listmle,
    "plackett_luce": listwise.plackett_luce,
    "bce": listwise.bce,
    "hinge": pairwise.hinge,
    "ranknet": pairwise.ranknet,
    "lambdarank": pairwise.lambdarank,
    "first": pairwise.first,
    "ranklist_style": pairwise.ranklist_style,
    "anchored_hinge": pairwise.anchored_hinge,
}


def ranking_loss(name: str, params: Mapping[str, Any]) -> RankingLoss:
    """The loss of this name with its parameters, which the configuration has checked."""
    return partial(FUNCTIONS[name], **params)
