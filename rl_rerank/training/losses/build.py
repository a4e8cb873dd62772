"""Building a ranking loss by name."""

from collections.abc import Mapping
from typing import Any

from rl_rerank import registry
from rl_rerank.training.losses.base import RankingLoss


def build_loss(place: str, name: str, params: Mapping[str, Any]) -> RankingLoss:
    """Build the loss `name` with its parameters.

    Args:
        place: the stage that names it, for error messages.

    Raises:
        LookupError, ImportError, ValueError: for a loss or a parameter that does not exist, or a wrong value.
    """
    try:
        return registry.build("loss", name, params)
    except (LookupError, ValueError) as e:
        raise type(e)(f"{place}.loss_params: {e}" if isinstance(e, ValueError) else f"{place}.loss: {e}") from None
