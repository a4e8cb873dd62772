"""`model.path=tiny_vl`: a model that sees, of the design of SmolVLM, with random weights. Made at first use, seeded.

It is for trying what a recipe does with images, in seconds on a CPU. It knows nothing before it is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from rl_rerank.engines.local import embedded
from rl_rerank.io.cache import made_once

SIDE, PATCH, SCALE = 48, 8, 2
"""Pixels of an image's side, of a patch's, and patches by which the connector divides each side: 9 tokens an image."""
CONTEXT = 4096
VERSION = 1
"""Raise it when other weights are made."""


def folder() -> Path:
    """Find the model's folder in the cache; make it if it is not there.

    Raises:
        ImportError: if the package with its tokenizer is not installed.
    """
    file = embedded.file()
    return made_once(f"tiny-vl-{VERSION}", lambda target: make(_tokenizer(file), target))


def _tokenizer(file: Path) -> Any:
    return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


def make(tokenizer: Any, target: Path) -> None:
    """Write a model with random weights, seeded, and its processor around a tokenizer, which gets a placeholder."""
    size = {"longest_edge": SIDE}
    tokenizer.add_tokens(["<global-img>"], special_tokens=True)
    seeing = Idefics3ImageProcessorPil(do_image_splitting=False, size=size, max_image_size=size)
    processor: Any = Idefics3Processor(seeing, tokenizer, image_seq_len=(SIDE // PATCH // SCALE) ** 2)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = CONTEXT
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    sight = Idefics3VisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,  # some programs read it here, others in the whole
        **ends,
    )
    config = Idefics3Config(
        vision_config=sight.to_dict(),
        text_config=text.to_dict(),
        image_token_id=processor.image_token_id,
        scale_factor=SCALE,
        tie_word_embeddings=True,
        **ends,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Idefics3ForConditionalGeneration(config)
    model.save_pretrained(target)
    processor.save_pretrained(target)
