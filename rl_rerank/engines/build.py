"""The engine that the configuration asks for. Imports no model library until it is asked to build."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType

from rl_rerank.config import Config, EngineConfig, ModelConfig, OpenAIArgs
from rl_rerank.engines.base import Engine
from rl_rerank.engines.journal import Journal
from rl_rerank.engines.journaled import Journaled
from rl_rerank.requirements import EXTRAS

JOURNAL = "journal.sqlite"


def build_engine(engine: EngineConfig, model: ModelConfig, path: Path) -> Engine:
    """An engine over the model folder `path`.

    Raises:
        ImportError: if the extra that the engine needs is not installed.
        ValueError: if `engine.args` holds what the engine does not take, or the engine asks a server.
    """
    if engine.kind == "openai":
        raise ValueError(f"engine.kind=openai asks a server and cannot answer with {str(path)!r}; use hf or vllm")
    if engine.kind == "cross_encoder":
        batch_size = engine.cross_encoder().batch_size
        return _load("local.cross_encoder", engine.kind).CrossEncoderEngine(path, model, batch_size=batch_size)
    renderer = checkpoint(engine.kind).renderer(model, path)
    if engine.kind == "hf":
        if engine.args:
            raise ValueError(
                f"engine.args.{min(engine.args)} cannot be set for engine.kind=hf, which takes engine.batch_tokens"
            )
        return _load("local.hf", "hf").HFEngine(
            path,
            renderer,
            dtype=model.dtype,
            batch_tokens=engine.batch_tokens,
            trust_remote_code=model.trust_remote_code,
        )
    return _load("local.vllm", "vllm").VLLMEngine(
        path, renderer, dtype=model.dtype, args=engine.args, trust_remote_code=model.trust_remote_code
    )


def build_stage_engine(config: Config, ref: str, own: EngineConfig | None = None) -> Engine:
    """The engine of a stage, with a journal where the configuration wants one.

    Args:
        ref: the model that the stage refers to: `model`, or the name of a training stage. A server and a cross-encoder
            know theirs themselves.
        own: the stage's engine, where it has one; None takes the experiment's.
    """
    engine = own or config.engine
    if engine.kind == "openai":
        built = _served(engine.openai(), config.model)
        return Journaled(built, _journal(config) or Journal(Path(config.run_dir) / JOURNAL), engine.answering())
    path = _folder(config, ref, engine)
    built = build_engine(engine, config.model, path)
    if (answers := _journal(config)) is None:
        return built
    identity = {"kind": engine.kind, "dtype": config.model.dtype, "weights": answers.weights(path)}
    return Journaled(built, answers, {**identity, "args": engine.args} if engine.kind == "vllm" else identity)


def _journal(config: Config) -> Journal | None:
    return None if config.journal is None else Journal(Path(config.journal))


def _served(args: OpenAIArgs, model: ModelConfig) -> Engine:
    renderer = None
    if args.tokenizer is not None:
        renderer = _load("local.tokenizer", "openai").renderer(model, args.tokenizer)
    return _load("served.openai", "openai").OpenAIEngine(args, model, renderer)


def _folder(config: Config, ref: str, engine: EngineConfig) -> Path:
    files = checkpoint(engine.kind)
    if engine.kind != "cross_encoder":
        return files.locate(config, ref)
    args = engine.cross_encoder()
    own = {} if args.model is None else {"path": args.model, "revision": args.revision}
    return files.base_model_dir(dataclasses.replace(config.model, **own))


def checkpoint(kind: str = "hf") -> ModuleType:
    """The module rl_rerank.engines.local.checkpoint, imported now."""
    return _load("local.checkpoint", kind)


def _load(module: str, kind: str) -> ModuleType:
    try:
        return importlib.import_module(f"rl_rerank.engines.{module}")
    except ModuleNotFoundError as e:
        missing = (e.name or "").partition(".")[0]
        if missing == "rl_rerank":
            raise
        raise ImportError(
            f"engine.kind={kind} needs {missing!r}, which is not installed: "
            f"run `pip install 'rl-rerank[{EXTRAS.get(missing, 'train')}]'`"
        ) from e
