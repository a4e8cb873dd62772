"""Replication checks: the stage's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rl_rerank import registry
from rl_rerank.config import StageConfig
from rl_rerank.stages.check.finished_run import Check, CheckTraits, Run

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class CheckStage(StageConfig):
    """Check that the mechanisms a published system relies on behaved as specified in this run."""

    reads_rewards: ClassVar[bool] = True

    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """An installed check's name -> its parameters. To use one twice: NAME@ANYTHING."""

    def reads(self, before: Mapping[str, StageConfig]) -> set[str]:
        return set(before)

    def build(self, name: str, plugins: Plugins) -> list[Check]:
        """The checks.

        Raises:
            LookupError, ValueError: for a check or a parameter that does not exist, or what a check refuses.
        """
        built: list[Check] = []
        config = plugins.config
        earlier = Run(replace(config, stages=config.before(self)), plugins)
        for key, params in self.checks.items():
            try:
                made = registry.build("check", key.partition("@")[0], params)
                if refuse := registry.traits(CheckTraits, made).refuse:
                    refuse(earlier)
            except (LookupError, ValueError) as e:
                raise type(e)(f"stages.{name}.checks.{key}: {e}") from None
            built.append(made)
        return built

    def check(self, name: str, plugins: Plugins) -> None:
        self.build(name, plugins)

    def results(self, folder: Path) -> list[str]:
        path = folder / "checks.md"
        return [path.read_text(encoding="utf-8")] if path.is_file() else []
