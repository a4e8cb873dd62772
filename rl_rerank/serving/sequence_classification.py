"""Weights of a sequence classifier: an exported model whose head is W[positive] - W[negative].

Its one logit is the score. It is for programs that serve classifiers only; whoever asks it renders pairs by the
folder's chat template, as CrossEncoder does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rl_rerank.engines.local.tokenizer import load_tokenizer
from rl_rerank.serving.contract import Contract

FOLDER = "sequence_classification"
"""In the exported folder."""


def check(terms: Contract) -> None:
    """Refuse a model whose score is no logit of a classifier.

    Raises:
        ValueError: with the reason.
    """
    if terms.cross_encoder is None or terms.cross_encoder.refusal:
        reason = "" if terms.cross_encoder is None else f": {terms.cross_encoder.refusal}"
        raise ValueError(f"there are no weights of a sequence classifier for this model{reason}")
    if terms.dtype != "float32":
        raise ValueError(
            f"a sequence classifier in {terms.dtype} rounds its scores to that type, so that documents share them; "
            "export it with model.dtype=float32"
        )


def write(folder: Path, terms: Contract, trust_remote_code: bool = False) -> None:
    """Write the classifier into `FOLDER` of an exported folder.

    Raises:
        ValueError: if the model's score is no logit of a classifier, or transformers has no classifier of its kind.
    """
    check(terms)
    positive, negative = (ids[0] for ids in terms.continuation_ids.values())
    given = {"dtype": torch.float32, "local_files_only": True, "trust_remote_code": trust_remote_code}
    head = AutoModelForCausalLM.from_pretrained(str(folder), **given).get_output_embeddings()
    model = AutoModelForSequenceClassification.from_pretrained(str(folder), num_labels=1, **given)
    score = getattr(model, "score", None)
    if not isinstance(score, torch.nn.Linear) or head is None or head.bias is not None:
        raise ValueError(
            f"{type(model).__name__} of transformers has another head than one weight per feature, so its logit cannot "
            "be the difference of two tokens' logits"
        )
    with torch.no_grad():
        score.weight.copy_(head.weight[[positive]] - head.weight[[negative]])
    tokenizer = load_tokenizer(folder, trust_remote_code)
    # By it transformers finds the last token, whose logit is read, in rows of several lengths.
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder / FOLDER)
    tokenizer.save_pretrained(folder / FOLDER)
