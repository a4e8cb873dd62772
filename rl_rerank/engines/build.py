"""Building the configured engine. Imports model libraries only when building."""

from pathlib import Path

from rl_rerank.config import Config, EngineConfig, ModelConfig
from rl_rerank.engines.base import Engine
from rl_rerank.engines.journal import Journal
from rl_rerank.engines.journaled import Journaled

JOURNAL = "journal.sqlite"


def build_engine(engine: EngineConfig, model: ModelConfig, path: Path) -> Engine:
    """Build an engine over the model folder `path`.

    Raises:
        ImportError: if the extra that the engine needs is not installed.
        ValueError: if `engine.args` has an invalid setting, or the engine is a server.
    """
    return engine.settings().build(model, path)


def build_stage_engine(config: Config, ref: str, own: EngineConfig | None = None) -> Engine:
    """Build the engine of a stage, with a journal if configured.

    Args:
        ref: the stage's model: `model`, or the name of a training stage. An engine with its own model ignores it.
        own: the stage's own engine; None takes the experiment's.
    """
    engine = own or config.engine
    kind = engine.settings()
    path = kind.folder(config, ref)
    built = kind.build(config.model, path)
    journal = config.journal or (str(Path(config.run_dir) / JOURNAL) if kind.is_journaled else None)
    if journal is None:
        return built
    answers = Journal(Path(journal))
    if path is None:
        return Journaled(built, answers, engine.answering())
    weights = {"kind": engine.kind, "dtype": config.model.dtype, "weights": answers.weights(path)}
    return Journaled(built, answers, {**weights, **kind.identity()})
