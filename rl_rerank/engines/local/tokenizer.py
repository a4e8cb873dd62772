"""Tokenizers, renderers and end tokens of model folders, without their models and so without torch."""

import json
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rl_rerank.config import ModelConfig
from rl_rerank.prompts.rendering import Renderer


def load_tokenizer(path: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a model folder's tokenizer. Its end token pads if it has no pad token, so mask by length, not by id."""
    tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def renderer(model: ModelConfig, path: str | Path) -> Renderer:
    """Build the renderer of prompts into token ids of the model in `path`."""
    return Renderer(
        load_tokenizer(path, model.trust_remote_code),
        max_prompt_tokens=model.max_prompt_tokens,
        max_passage_tokens=model.max_passage_tokens,
        template_kwargs=model.template_kwargs,
        declared_ends=_declared_ends(Path(path)),
    )


def stop_ids(path: str | Path, trust_remote_code: bool = False) -> list[int]:
    """Collect the tokens at which the model in `path` stops, as every renderer of it has them."""
    tokenizer = load_tokenizer(path, trust_remote_code)
    return sorted(Renderer(tokenizer, max_prompt_tokens=1, declared_ends=_declared_ends(Path(path))).stop_ids)


def _declared_ends(folder: Path) -> Iterator[int]:
    """Yield the ends of sequence in a folder's files; none for a hub id."""
    for name in ("config.json", "generation_config.json"):
        if not (folder / name).is_file():
            continue
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
        for part in (settings, settings.get("text_config") or {}):
            ends = part.get("eos_token_id")
            yield from [ends] if isinstance(ends, int) else ends or ()
