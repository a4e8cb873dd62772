"""Building the terms of a reward from the configuration."""

from rl_rerank.config import Config
from rl_rerank.reward.base import Recipe, Term


def reward_terms(config: Config) -> list[Term]:
    """Build the configured rewards.

    Raises:
        ValueError: if none is configured.
    """
    if not config.rewards:
        raise ValueError("no reward is configured; choose some with 'reward=[ndcg,format]'")
    return [
        Term(name, recipe.build(), reward.weight, reward.failed, reward.workers, reward.timeout, recipe)
        for name, reward in config.rewards.items()
        for recipe in [Recipe(name, reward.params, reward.target)]
    ]
