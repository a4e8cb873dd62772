"""Tokenizers, without their models and so without torch."""

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
    )
