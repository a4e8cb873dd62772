"""The installed rewards, by what they look at: `rl-rerank rewards list`."""

import inspect
from collections.abc import Mapping
from typing import Any

from rl_rerank import registry
from rl_rerank.reward.base import RewardTraits, is_query_reward

HEADINGS: Mapping[str, str] = {
    "terms": "Terms, each of one completion",
    "query terms": "Terms, each of all completions of a query",
    "compositions": "Compositions of terms, as published",
    "broken": "Installed, and broken",
}


def listed() -> dict[str, list[str]]:
    """Heading -> the lines about its rewards: `name(parameters)`, and what it is below. Empty groups are absent."""
    found: dict[str, list[str]] = {}
    for name in registry.names("reward"):
        try:
            reward = registry.find("reward", name)
        except ImportError as e:
            found.setdefault("broken", []).append(f"{name}  broken: {e}")
            continue
        found.setdefault(_group(reward), []).extend(_lines(name, reward))
    return {HEADINGS[group]: found[group] for group in HEADINGS if group in found}


def _group(reward: Any) -> str:
    found = registry.traits(RewardTraits, reward)
    if found.explain is not None or found.explain_all is not None:
        return "compositions"
    return "query terms" if is_query_reward(reward) else "terms"


def _lines(name: str, reward: Any) -> list[str]:
    parameters = inspect.signature(reward).parameters.values() if isinstance(reward, type) else ()
    shown = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters)
    paradigms = registry.traits(RewardTraits, reward).paradigms
    first = (inspect.getdoc(reward) or "").partition("\n")[0]
    return [f"{name}({shown})", f"    {first}", *([f"    for {', '.join(paradigms)}"] if paradigms else [])]
