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
    """An engine before it is built: settings, requirements and limits. Free of model libraries.

    A kind of engine is a subclass under the entry point `rl_rerank.engine`. Its fields are the settings under
    `engine.args`. It overrides `build`, and all defaults that do not apply; they describe a local model of ours.
    """

    has_own_model: ClassVar[bool] = False
    """Whether it brings its own model, as a server does; otherwise it uses one of our model folders."""
    generates: ClassVar[bool] = True
    """Whether it generates text; false: it only scores."""
    asks: ClassVar[str] = "a model"
    """What a stage has to leave for its model to be asked through this engine: one of the values of
    `StageConfig.leaves`."""
    is_journaled: ClassVar[bool] = False
    """Whether its answers are always journaled, because they cost money; false: only if `journal` is set."""

    @classmethod
    def read(cls: type[K], engine: EngineConfig) -> K:
        """Read the settings from the configuration.

        Raises:
            ValueError: for an unknown setting or an invalid value.
        """
        return build(cls, engine.args, "engine.args.")

    @property
    def requires(self) -> Sequence[str]:
        """List the packages that it needs."""
        return ("torch", "transformers")

    @property
    def capabilities(self) -> frozenset[str]:
        """List the names of `engines.base.Capability` that it may have; what a server has is known once it runs."""
        return frozenset({"score", "logprobs", "constraint"})

    @property
    def cuts_prompts(self) -> bool:
        """Whether prompts are cut to `model.max_prompt_tokens` by our renderer."""
        return not self.has_own_model

    @property
    def model_label(self) -> str:
        """Name of its own model for a card; empty if it uses the experiment's model."""
        return ""

    def check(self, place: str, paradigm: Paradigm, advice: str) -> None:
        """Refuse a paradigm that it cannot answer, before any work.

        Args:
            place: beginning of the error, such as `stages.test`.
            advice: end of the error.
        """

    def answering(self, engine: EngineConfig) -> dict[str, Any]:
        """Collect the settings that answers depend on, besides a model folder; not server address, speed or price."""
        return dataclasses.asdict(engine)

    def identity(self) -> dict[str, Any]:
        """Collect the parts of the journal key besides the weights and their dtype."""
        return {"args": dataclasses.asdict(self)} if dataclasses.fields(self) else {}

    def folder(self, config: Config, ref: str) -> Path | None:
        """Find the model folder that it uses; None if it has none.

        Args:
            ref: `model`, or the name of a training stage.
        """
        if self.has_own_model:
            return None
        return load("rl_rerank.engines.local.checkpoint", "the engine").locate(config, ref)

    def build(self, model: ModelConfig, folder: Path | None) -> Engine:
        """Build the engine.

        Raises:
            ImportError: if a package that it needs is not installed.
            ValueError: if it does not support this folder.
        """
        raise NotImplementedError


@dataclass(kw_only=True)
class EngineConfig:
    """The engine that answers prompts outside training."""

    kind: str = "hf"
    """hf or vllm, over the base or trained models; openai or rerank_api, a server; cross_encoder; bi_encoder; or the
    name of an installed plugin."""
    batch_tokens: int = 16384
    """hf: token budget (with padding) of one forward."""
    bf16: bool | None = False
    """hf: compute in bfloat16, with weights of model.dtype; null: where CUDA or the processor's AMX does so faster."""
    args: dict[str, Any] = field(default_factory=dict)
    """The kind's settings. vllm: any argument of vllm.LLM."""

    def __post_init__(self) -> None:
        one_of("engine.kind", self.kind, tuple(registry.names("engine")))
        self.settings()

    def settings(self) -> EngineKind:
        """Convert `kind` and `args` to the engine's own settings."""
        return registry.find("engine", self.kind).read(self)

    def answering(self) -> dict[str, Any]:
        """Collect the settings that answers depend on, besides a model folder."""
        return self.settings().answering(self)
