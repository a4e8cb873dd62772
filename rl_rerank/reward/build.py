"""From the configuration to the terms of a reward."""

from __future__ import annotations

from rl_rerank import registry
from rl_rerank.config import Config
from rl_rerank.reward.base import Term


def reward_terms(config: Config) -> list[Term]:
    """The configured rewards, built.

    Raises:
        ValueError: if none is configured.
    """
    if not config.rewards:
        raise ValueError("no reward is configured; choose some with 'reward=[ndcg,format]'")
    return [
        Term(
            name,
            registry.build("reward", name, reward.params, target=reward.target),
            reward.weight,
            reward.failed,
            reward.workers,
            reward.timeout,
        )
        for name, reward in config.rewards.items()
    ]
