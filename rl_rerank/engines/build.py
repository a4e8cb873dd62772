"""Building the configured engine. Imports model libraries only when building."""

from pathlib import Path
from typing import Any

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


def build_stage_engine(
    config: Config, ref: str, own: EngineConfig | None = None, journal: Path | None = None
) -> Engine:
    """Build the engine of a stage, with a journal if configured.

    Args:
        ref: the stage's model: `model`, or the name of a training stage. An engine with its own model ignores it.
        own: the stage's own engine; None takes the experiment's.
        journal: a journal that has answers already.
    """
    built = build_bare(config, ref, own)
    is_journaled = (own or config.engine).settings().is_journaled
    given = journal or config.journal or (Path(config.run_dir) / JOURNAL if is_journaled else None)
    if given is None:
        return built
    answers = Journal(Path(given))
    return Journaled(built, answers, identity(config, ref, own, answers))


def build_bare(config: Config, ref: str, own: EngineConfig | None = None) -> Engine:
    """Build the engine of a stage without a journal; arguments as those of `build_stage_engine`."""
    kind = (own or config.engine).settings()
    return kind.build(config.model, kind.folder(config, ref))


def identity(config: Config, ref: str, own: EngineConfig | None, answers: Journal) -> dict[str, Any]:
    """Make the identity of the model that answers in a stage, which separates its answers in a journal from others'.

    Args:
        answers: the journal that keeps digests of weights.
    """
    engine = own or config.engine
    kind = engine.settings()
    path = kind.folder(config, ref)
    if path is None:
        return dict(engine.answering())
    weights = {"kind": engine.kind, "dtype": config.model.dtype, "weights": answers.weights(path)}
    return {**weights, **kind.identity()}
