"""From the configuration to a paradigm."""

import random
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from rl_rerank import registry
from rl_rerank.config import Config, PluginConfig
from rl_rerank.paradigms.base import Paradigm, ParadigmTraits, members, traits
from rl_rerank.paradigms.wordings import following
from rl_rerank.prompts.wordings.wording import FORMS
from rl_rerank.types import Candidate, Completion, RankingExample

REQUIRED = ("name", "max_completion_tokens", "continuations", "prompt", "prompts", "target", "parse", "strategy")
KNOWN = frozenset({*REQUIRED, *(field.name for field in fields(ParadigmTraits))})

TRIED = RankingExample(
    "tried",
    "a query",
    # Prompts about them are never rendered, so their images need not exist.
    (Candidate("a", "one text", images=("a.png",), rank=1), Candidate("b", "another", images=("b.png",), rank=2)),
    {"a": 1},
)


def build_paradigm(config: Config, name: str) -> Paradigm:
    """The paradigm `name` with the parameters that the configuration gives it."""
    plugin = config.paradigms.get(name, PluginConfig())
    return make(plugin.name or name, plugin.params, target=plugin.target)


def make(name: str, params: Mapping[str, Any], *, target: str | None = None) -> Paradigm:
    """The paradigm `name`, or `target` where given.

    Raises:
        LookupError, ImportError, ValueError: for a paradigm or a parameter that does not exist, a misspelt optional
            attribute, or prompts that contradict it.
    """
    if params.get("wording") is not None and name in FORMS:
        params = following(name, params["wording"], params)
    paradigm = registry.build("paradigm", name, params, target=target)
    registry.refuse_misspelt("paradigm", name, paradigm, KNOWN)
    paradigm = cast(Paradigm, paradigm)
    _check_reasoning(name, paradigm)
    _check_target(name, paradigm)
    return paradigm


def _check_target(name: str, paradigm: Paradigm) -> None:
    """Refuse a wording whose own well-formed answer would not be read back."""
    for prompt in paradigm.prompts(TRIED, random.Random(0)) if getattr(paradigm, "wording", None) is not None else ():
        answer = paradigm.target(TRIED, prompt)
        if not paradigm.parse(prompt, Completion(answer), strict=True).is_ok:
            raise ValueError(f"the paradigm {name!r}: with this wording its own answer {answer!r} cannot be read back")


def _check_reasoning(name: str, paradigm: Paradigm) -> None:
    """Refuse prompts for which a chat template would be set otherwise than their answers are read."""
    asking = members(paradigm)
    for prompt in next(paradigm.strategy(TRIED), ()):
        is_read = traits(asking.get(prompt.paradigm, paradigm)).reasoning
        if prompt.reasoning != is_read:
            raise ValueError(
                f"the paradigm {name!r} ({type(paradigm).__name__}) has reasoning={is_read} and makes prompts with "
                f"reasoning={prompt.reasoning}, so that a chat template would let the model think where no thought is "
                "read, or the other way round; give its prompts the paradigm's own"
            )
