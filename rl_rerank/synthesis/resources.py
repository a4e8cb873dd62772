"""Resources that the steps of a process share: engines and the whole collection, each made on first use."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rl_rerank.config import Config
from rl_rerank.data.prepare import build_source
from rl_rerank.data.records import Collection
from rl_rerank.engines.base import Engine
from rl_rerank.engines.build import JOURNAL, build_stage_engine
from rl_rerank.engines.journaled import Journaled
from rl_rerank.synthesis.metered import Meter, Metered

if TYPE_CHECKING:
    from rl_rerank.stages.synth.spec import SynthStage

T = TypeVar("T")


class Resources:
    """Shared resources. All engines, local ones too, write each answer into the run's journal on arrival."""

    def __init__(self, config: Config, stage: SynthStage, meter: Meter) -> None:
        self._config = config if config.journal else replace(config, journal=str(Path(config.run_dir) / JOURNAL))
        self._stage = stage
        self._engines: dict[str, Engine] = {}
        self._shared: dict[Hashable, Any] = {}
        self.meter = meter

    def engine(self, name: str) -> Engine:
        """Find the stage's engine of this name.

        Raises:
            LookupError: if the stage has none.
        """
        if name not in self._engines:
            if name and name not in self._stage.engines:
                raise LookupError(
                    f"a step names the engine {name!r}, which is none of the stage's; its engines: "
                    f"{', '.join(self._stage.engines) or 'none'}"
                )
            own = self._stage.engines[name] if name else self._stage.engine
            built = build_stage_engine(self._config, "model", own)
            assert isinstance(built, Journaled)
            built.engine = Metered(built.engine, self.meter)
            self._engines[name] = built
            self.meter.engines.append(built)
        return self._engines[name]

    @cached_property
    def collection(self) -> Collection:
        """The whole collection that the data's source reads."""
        return build_source(self._config.data).read()

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Make a value once per process, such as an index or a table of benchmarks."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def close(self) -> None:
        """Free the engines."""
        for engine in self._engines.values():
            engine.close()
