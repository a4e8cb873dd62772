"""Configuration of the engine that answers prompts outside training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rl_rerank import registry
from rl_rerank.config.building import build, one_of
from rl_rerank.requirements import load

if TYPE_CHECKING:
    from rl_rerank.config.experiment import Config, ModelConfig
    from rl_rerank.engines.base import Engine
    from rl_rerank.paradigms.base import Paradigm

K = TypeVar("K", bound="EngineKind")


@dataclass(kw_only=True)
class EngineKind:
    """An engine before it is built: its settings, what it needs, and what it cannot do. Free of model libraries.

    A kind of engine is a subclass under the entry point `rl_rerank.engine`. Its fields are the settings under
    `engine.args`; it overrides `build`, and what differs from a model of ours that runs in this process.
    """

    has_own_model: ClassVar[bool] = False
    """Whether it knows its model itself, as a server does; otherwise it answers with a model folder of ours."""
    generates: ClassVar[bool] = True
    """Whether it writes text; false: it only scores."""
    is_journaled: ClassVar[bool] = False
    """Whether its answers are always kept, because they are paid for; false: where `journal` is set."""

    @classmethod
    def read(cls: type[K], engine: EngineConfig) -> K:
        """The settings as the configuration gives them.

        Raises:
            ValueError: for a setting or a value that it does not take.
        """
        return build(cls, engine.args, "engine.args.")

    @property
    def requires(self) -> Sequence[str]:
        """The packages that it needs."""
        return ("torch", "transformers")

    @property
    def cuts_prompts(self) -> bool:
        """Whether prompts are cut to `model.max_prompt_tokens` by our renderer."""
        return not self.has_own_model

    @property
    def model_label(self) -> str:
        """Name of its own model for a card; empty if it uses the experiment's model."""
        return ""

    def check(self, place: str, paradigm: Paradigm, advice: str, *, measures_format: bool = False) -> None:
        """Refuse a paradigm that it cannot answer, before any work.

        Args:
            place: what the error begins with, such as `stages.test`.
            advice: what the error ends with.
            measures_format: whether the stage also generates answers to measure their form.
        """

    def answering(self, engine: EngineConfig) -> dict[str, Any]:
        """Collect the settings that answers depend on, besides a model folder; not server address, speed or price."""
        return dataclasses.asdict(engine)

    def identity(self) -> dict[str, Any]:
        """Collect the parts of the journal key besides the weights and their dtype."""
        return {"args": dataclasses.asdict(self)} if dataclasses.fields(self) else {}

    def folder(self, config: Config, ref: str) -> Path | None:
        """The model folder that it answers with; None where it has none.

        Args:
            ref: `model`, or the name of a training stage.
        """
        if self.has_own_model:
            return None
        return load("rl_rerank.engines.local.checkpoint", "the engine").locate(config, ref)

    def build(self, model: ModelConfig, folder: Path | None) -> Engine:
        """The engine.

        Raises:
            ImportError: if a package that it needs is not installed.
            ValueError: if it cannot answer with this folder.
        """
        raise NotImplementedError


@dataclass(kw_only=True)
class EngineConfig:
    """The engine that answers prompts outside training."""

    kind: str = "hf"
    """hf or vllm, over the model and what is trained from it; openai, a server; cross_encoder; or an installed
    plugin's."""
    batch_tokens: int = 16384
    """hf: padded prompt tokens in one forward, at most."""
    args: dict[str, Any] = field(default_factory=dict)
    """The kind's settings. vllm: any argument of vllm.LLM."""

    def __post_init__(self) -> None:
        one_of("engine.kind", self.kind, tuple(registry.names("engine")))
        self.settings()

    def settings(self) -> EngineKind:
        """`kind` and `args` as the engine's own settings."""
        return registry.find("engine", self.kind).read(self)

    def answering(self) -> dict[str, Any]:
        """Collect the settings that answers depend on, besides a model folder."""
        return self.settings().answering(self)
