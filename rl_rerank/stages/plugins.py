"""The plugins that a configuration names, each built once."""

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from rl_rerank.config import Config, EngineConfig, EngineKind, PluginConfig
from rl_rerank.data.prepare import build_source
from rl_rerank.paradigms.base import Paradigm, check_engine, members
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.reward.base import Term
from rl_rerank.reward.build import reward_terms
from rl_rerank.synthesis.step import Step, build_step
from rl_rerank.training.losses.base import RankingLoss
from rl_rerank.training.losses.build import build_loss

T = TypeVar("T")


class Plugins:
    """Builds what a stage asks for when it is first asked for, so that validating an experiment builds nothing twice.

    Raises:
        LookupError, ImportError, ValueError: from any method, for a plugin or a parameter that does not exist.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._built: dict[Hashable, Any] = {}

    def paradigm(self, name: str = "") -> Paradigm:
        """A paradigm by its name in the configuration; empty: the experiment's."""
        name = name or self.config.paradigm
        return self._once(("paradigm", name), lambda: build_paradigm(self.config, name))

    @property
    def terms(self) -> list[Term]:
        """The rewards; empty where none is configured."""
        return self._once("terms", lambda: reward_terms(self.config) if self.config.rewards else [])

    @property
    def source(self) -> Any:
        """Where the data come from."""
        return self._once("source", lambda: build_source(self.config.data))

    def steps(self, steps: Mapping[str, PluginConfig]) -> dict[str, Step]:
        """The steps of a synthesis, by their names in it."""
        return {
            name: self._once(("step", name, json.dumps(asdict(plugin))), lambda: build_step(name, plugin))  # noqa: B023
            for name, plugin in steps.items()
        }

    def loss(self, place: str, name: str, params: Mapping[str, Any]) -> RankingLoss:
        """A ranking loss that a stage names."""
        return self._once(("loss", name, json.dumps(params, default=str)), lambda: build_loss(place, name, params))

    def engine(self, engine: EngineConfig) -> EngineKind:
        """An engine's settings."""
        return self._once(("engine", json.dumps(asdict(engine))), engine.settings)

    def check_ranking(
        self, place: str, engine: EngineConfig, paradigm: Paradigm, advice: str, *, compares: bool = False
    ) -> None:
        """Refuse an engine that cannot answer what a paradigm's strategy asks.

        Args:
            place: beginning of the error, such as `stages.test`.
            advice: end of the error.
            compares: whether a cross-encoder was trained by a stage, which may have taught it to compare two documents.
        """
        kind = self.engine(engine)
        for member in members(paradigm).values():
            if member.name == "pairwise" and "duo" in kind.capabilities and not compares:
                raise ValueError(
                    f"{place}: a cross-encoder of another origin scores one document, not two; a stage of kind "
                    "cross_encoder with a pairwise paradigm trains one that compares"
                )
            kind.check(place, member, advice)
            try:
                check_engine(member, f"engine.kind={engine.kind}", kind.capabilities)
            except ValueError as e:
                raise ValueError(f"{place}: {e}{advice}") from e

    def _once(self, key: Hashable, build: Callable[[], T]) -> T:
        if key not in self._built:
            self._built[key] = build()
        return self._built[key]
