"""The engine that the configuration asks for. Imports no model library until it is asked to build."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from rl_rerank.config import Config, EngineConfig, ModelConfig
from rl_rerank.engines.base import Engine

_EXTRAS = {"vllm": "vllm"}


def build_engine(engine: EngineConfig, model: ModelConfig, path: Path) -> Engine:
    """An engine over the model folder `path`.

    Raises:
        ImportError: if the extra that the engine needs is not installed.
        ValueError: if `engine.args` holds what the engine does not take.
    """
    renderer = checkpoint(engine.kind).renderer(model, path)
    if engine.kind == "hf":
        if engine.args:
            raise ValueError(
                f"engine.args.{min(engine.args)} cannot be set for engine.kind=hf, which takes engine.batch_tokens"
            )
        return _load("hf", "hf").HFEngine(
            path,
            renderer,
            dtype=model.dtype,
            batch_tokens=engine.batch_tokens,
            trust_remote_code=model.trust_remote_code,
        )
    return _load("vllm", "vllm").VLLMEngine(
        path, renderer, dtype=model.dtype, args=engine.args, trust_remote_code=model.trust_remote_code
    )


def build_stage_engine(config: Config, ref: str) -> Engine:
    """The configured engine over the model that a stage refers to: `model`, or the name of a training stage."""
    return build_engine(config.engine, config.model, checkpoint(config.engine.kind).locate(config, ref))


def checkpoint(kind: str = "hf") -> ModuleType:
    """The module rl_rerank.engines.checkpoint, imported now."""
    return _load("checkpoint", kind)


def _load(module: str, kind: str) -> ModuleType:
    try:
        return importlib.import_module(f"rl_rerank.engines.{module}")
    except ModuleNotFoundError as e:
        missing = (e.name or "").partition(".")[0]
        if missing == "rl_rerank":
            raise
        raise ImportError(
            f"engine.kind={kind} needs {missing!r}, which is not installed: "
            f"run `pip install 'rl-rerank[{_EXTRAS.get(missing, 'train')}]'`"
        ) from e
