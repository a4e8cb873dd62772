"""Makes a pyramid of a model."""

from __future__ import annotations

import logging
from pathlib import Path

from rl_rerank.config import Config
from rl_rerank.engines.local import checkpoint, pyramid
from rl_rerank.io.files import replacing_folder
from rl_rerank.stages.pyramid.spec import PyramidStage

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: PyramidStage) -> None:
    """Leave the pyramid in run_dir/<name>/model, whole or not at all.

    Raises:
        ValueError: if none can be made of this model, or its chat template does not mark messages.
    """
    start = checkpoint.locate(config, stage.model)
    tokenizer = checkpoint.load_tokenizer(start, config.model.trust_remote_code)
    model = checkpoint.load_model(start, config.model.dtype, config.model.trust_remote_code)
    try:
        made = pyramid.make(model, stage.upper, pyramid.boundary(tokenizer))
    except ValueError as e:
        raise ValueError(f"stages.{name}: {e}") from None
    output = Path(config.run_dir) / name / "model"
    with replacing_folder(output) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    logger.info("%s: in the %d lower layers a token sees its own message alone", name, made.lower_layers)
