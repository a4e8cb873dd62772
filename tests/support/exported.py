"""Exported folders of tiny random models."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from rl_rerank.config import LongDocumentsConfig, ModelConfig
from rl_rerank.engines.local import checkpoint, pyramid
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.serving import contract, cross_encoder
from rl_rerank.serving.scores import golden

HEAD = LongDocumentsConfig()


def export(
    source: Path,
    folder: Path,
    paradigm: Paradigm,
    *,
    how: LongDocumentsConfig = HEAD,
    dtype: str = "float32",
    max_prompt_tokens: int = 256,
) -> Path:
    """Export a model folder as the export stage does, without an experiment."""
    model = ModelConfig(path=str(source), dtype=dtype, max_prompt_tokens=max_prompt_tokens)  # pyright: ignore[reportArgumentType]
    renderer = checkpoint.renderer(model, source)
    door = cross_encoder.door(paradigm, renderer, model, how, wanted=True, is_pyramid=pyramid.is_folder(source))
    folder.mkdir(parents=True)
    checkpoint.copy(source, folder, dtype)
    cross_encoder.write(folder, paradigm, renderer, model, how, door)
    engine = HFEngine(folder, renderer, dtype=dtype)
    terms = contract.Contract(
        paradigm=paradigm.name,
        paradigm_params=contract.parameters(paradigm),
        max_prompt_tokens=max_prompt_tokens,
        long_documents=how,
        template_kwargs=dict(renderer.arguments(paradigm.name, traits(paradigm).reasoning)),
        dtype=dtype,
        prompt_fingerprint=contract.fingerprint(paradigm, renderer),
        continuation_ids={text: list(renderer.continuation_ids(text)) for text in paradigm.continuations},
        stop_ids=sorted(renderer.stop_ids),
        cross_encoder=door,
        base_model="tiny",
        golden=[golden(paradigm, engine, renderer, how, *entry) for entry in contract.GOLDEN],
    )
    contract.write(folder, terms)
    contract.check_schema(folder)
    return folder


def with_tokenizer(source: Path, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Copy a model folder, with another tokenizer and embeddings of its size."""
    model = checkpoint.load_model(source, "float32")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
