"""Averages models' weights into a plain model folder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from transformers import AutoConfig

from rl_rerank.config import Config
from rl_rerank.engines.local import checkpoint
from rl_rerank.engines.local.processor import save_processor
from rl_rerank.engines.local.tokenizer import require_same_vocabulary
from rl_rerank.engines.local.weight_average import average
from rl_rerank.io.files import replacing_folder
from rl_rerank.stages.average.spec import AverageStage

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: AverageStage) -> None:
    """Leave the average in run_dir/<name>/model, whole or not at all.

    Raises:
        FileNotFoundError, LookupError: if a model is not there.
        ValueError: if the models differ in architecture, tensors or vocabulary, or the average is not finite.
    """
    place, trust = f"stages.{name}.models", config.model.trust_remote_code
    folders = {ref: checkpoint.locate_any(config, place, ref) for ref in stage.models}
    first = folders[stage.models[0]]
    tokenizer = checkpoint.load_tokenizer(first, trust)
    for ref, folder in list(folders.items())[1:]:
        require_same_vocabulary(f"{place}: {ref}", checkpoint.load_tokenizer(folder, trust), tokenizer)
    output = Path(config.run_dir) / name / "model"
    with replacing_folder(output) as partial:
        average(place, folders, stage.shares, partial, config.model.dtype)
        settings = AutoConfig.from_pretrained(str(first), local_files_only=True, trust_remote_code=trust)
        settings.dtype = config.model.dtype
        settings.save_pretrained(partial)
        for code in first.glob("*.py") if trust else ():
            shutil.copyfile(code, partial / code.name)
        checkpoint.generation_config(first, trust).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        save_processor(first, partial, trust)
    logger.info("%s: averaged %s", name, ", ".join(f"{ref} ({folder})" for ref, folder in folders.items()))
