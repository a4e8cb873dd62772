"""The files with which sentence-transformers' CrossEncoder loads an exported folder, or refuses it with a sentence.

CrossEncoder renders a pair through the folder's chat template and takes the difference of two tokens' logits behind it
(`LogitScore`). This is a paradigm's score where each document has a prompt of its own and the answer is one of two
tokens. A folder without these files loads as well, with tokens and a prompt that CrossEncoder guesses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rl_rerank.config import LongDocumentsConfig, ModelConfig
from rl_rerank.engines.local.tokenizer import load_tokenizer
from rl_rerank.io.files import write_json, write_text
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.serving import pair_template
from rl_rerank.serving.contract import GOLDEN, CrossEncoderDoor
from rl_rerank.serving.scores import prompts
from rl_rerank.serving.vllm_pairs import SCORE_TEMPLATE

CONFIG = "config_sentence_transformers.json"
LEAST_WORDS = 32
"""Words of a passage below which the golden documents would be split."""
UNBOUNDED = 100_000
"""Tokens that no golden prompt has."""
INSTEAD = "load it with `Reranker.load` of rl_rerank.serving"
TRANSFORMER = {
    "idx": 0,
    "name": "0",
    "path": "",
    "type": "sentence_transformers.base.modules.transformer.Transformer",
}
LOGIT_SCORE = {
    "idx": 1,
    "name": "1",
    "path": "1_LogitScore",
    "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
}


def door(
    paradigm: Paradigm,
    renderer: Renderer,
    model: ModelConfig,
    how: LongDocumentsConfig,
    *,
    wanted: bool,
    is_pyramid: bool = False,
) -> CrossEncoderDoor:
    """Say whether CrossEncoder can give the scores of `Reranker`, and for which inputs it does not."""
    if not wanted:
        reason = "it was exported without this way of loading"
    elif is_pyramid:
        reason = "its lower layers see one message of the prompt alone, of which other programs know nothing"
    else:
        reason = _refusal(paradigm, renderer, how)
    if reason:
        return CrossEncoderDoor(refusal=f"CrossEncoder cannot rank as this model was trained to: {reason}; {INSTEAD}")
    passage = model.max_passage_tokens
    long = [f"prompts of more than {model.max_prompt_tokens} tokens"]
    long += [] if passage is None else [f"documents of more than {passage} tokens"]
    limits = [f"{' and '.join(long)} are cut at another place"]
    if how.splits:
        limits.append(f"documents of more than {how.words} words, which have several passages, are refused")
    limits.append("a title is not told from the text")
    limits.append("characters that a tokenizer normalises, such as full-width brackets, are not made harmless")
    return CrossEncoderDoor(limits=limits)


def _refusal(paradigm: Paradigm, renderer: Renderer, how: LongDocumentsConfig) -> str:
    """Why the two scores would differ; empty if they do not."""
    if traits(paradigm).list_scores != "documents":
        return f"the score of a document by {paradigm.name} is no difference of two tokens' logits behind one prompt"
    if longer := [text for text in paradigm.continuations if len(renderer.continuation_ids(text)) > 1]:
        return f"the answer {longer[0]!r} takes {len(renderer.continuation_ids(longer[0]))} tokens"
    if how.mode in ("quite", "sump") or (how.splits and how.words < LEAST_WORDS):
        return f"long_documents is {how.described}"
    if _token_ids(paradigm, renderer, how) != _token_ids(paradigm, _unbounded(renderer), how):
        return "its token budgets cut the golden documents, by which the two are compared"
    return ""


def _unbounded(renderer: Renderer) -> Renderer:
    return Renderer(renderer.tokenizer, max_prompt_tokens=UNBOUNDED, template_kwargs=renderer.template_kwargs)


def _token_ids(paradigm: Paradigm, renderer: Renderer, how: LongDocumentsConfig) -> list[list[int]]:
    return [shown.token_ids for golden in GOLDEN for shown in prompts(paradigm, renderer, how, *golden)]


def write(
    folder: Path,
    paradigm: Paradigm,
    renderer: Renderer,
    model: ModelConfig,
    how: LongDocumentsConfig,
    terms: CrossEncoderDoor,
) -> None:
    """Write the modules, their settings and the chat template into a folder with weights and tokenizer."""
    tokenizer = load_tokenizer(folder, model.trust_remote_code)
    if terms.refusal:
        template = pair_template.without_pairs(renderer, paradigm, terms.refusal)
        write_json(folder / "modules.json", [TRANSFORMER])
        # CrossEncoder checks requirements before it loads a module, and shows the reason of one that is not met.
        unmet = {"specifier": "<0", "reason": terms.refusal}
        write_json(folder / CONFIG, {"model_type": "CrossEncoder", "requirements": {"sentence-transformers": unmet}})
    else:
        template = pair_template.with_pairs(renderer, paradigm, how)
        write_json(folder / "modules.json", [TRANSFORMER, LOGIT_SCORE])
        write_json(folder / CONFIG, _settings(folder, model))
        write_json(folder / "sentence_bert_config.json", _transformer(model))
        adds_begin = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        write_text(folder / SCORE_TEMPLATE, pair_template.without_begin(template) if adds_begin else template)
        positive, negative = (renderer.continuation_ids(text)[0] for text in paradigm.continuations)
        (folder / LOGIT_SCORE["path"]).mkdir()
        write_json(
            folder / LOGIT_SCORE["path"] / "config.json",
            {"true_token_id": positive, "false_token_id": negative, "module_input_name": "causal_logits"},
        )
    own = tokenizer.chat_template
    tokenizer.chat_template = {**own, "default": template} if isinstance(own, dict) else template
    tokenizer.save_pretrained(folder)


def _settings(folder: Path, model: ModelConfig) -> dict[str, Any]:
    reason = "earlier versions ignore parts of this folder, and would score otherwise"
    found: dict[str, Any] = {
        "model_type": "CrossEncoder",
        "activation_fn": "torch.nn.modules.linear.Identity",
        "prompts": {},
        "default_prompt_name": None,
        "requirements": {"sentence-transformers": {"specifier": ">=6.2", "reason": reason}},
    }
    if model.dtype != "float32" and (head := _head(folder, model.trust_remote_code)):
        found["keep_in_fp32_modules"] = [f"0.model.{head}"]  # As `Scorer` has it.
    return found


def _transformer(model: ModelConfig) -> dict[str, Any]:
    forward = {"method": "forward", "method_output_name": "logits"}
    return {
        "transformer_task": "text-generation",
        "modality_config": {"text": forward, "message": {**forward, "format": "flat"}},
        "module_output_name": "causal_logits",
        # Not max_seq_length, which vLLM takes for the longest prompt and answer together.
        "processing_kwargs": {"text": {"max_length": model.max_prompt_tokens}},
    }


def _head(folder: Path, trust_remote_code: bool) -> str | None:
    """The name of the model's output head; None if it is no plain linear layer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    names = (name for name, module in model.named_modules() if module is head)
    return next(names, None) if type(head) is torch.nn.Linear else None
