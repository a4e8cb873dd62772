"""Exported folders of tiny random models."""

from __future__ import annotations

import shutil
from pathlib import Path

from rl_rerank.config import LongDocumentsConfig, ModelConfig
from rl_rerank.engines.local import checkpoint
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
    door = cross_encoder.door(paradigm, renderer, model, how, wanted=True)
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


def with_tokenizer(source: Path, folder: Path, tokenizer) -> Path:
    """Copy a model folder and give it another tokenizer, which is not larger."""
    shutil.copytree(source, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    return folder
