"""Encoders of texts: a transformer, pooled over its tokens and normalised, so that a dot product is a cosine.

Shapes: N texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from rl_rerank.engines.local import encoders
from rl_rerank.requirements import load

Role = Literal["query", "document"]

BATCH_SIZE = 32
_POOLING = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}


class Encoder(Protocol):
    """Maps texts to vectors."""

    num_tokens: int | None
    """Tokens of all texts so far, without padding; None: not counted."""

    def encode(self, texts: Sequence[str], role: Role) -> np.ndarray:
        """Return the embeddings, float32 [N, D], each of length 1."""
        ...


def load_encoder(place: str, folder: Path, batch_size: int = BATCH_SIZE) -> Encoder:
    """Load the encoder of a folder, on a GPU if available.

    A transformer with mean or CLS pooling needs transformers only; other modules need sentence-transformers.

    Args:
        place: the setting that names the folder.

    Raises:
        FileNotFoundError, ValueError: for a folder without an encoder.
        ImportError: if sentence-transformers is needed and not installed.
    """
    modules = encoders.modules(place, folder)
    if (pooling := _pooling(folder, modules)) is not None:
        return TransformerEncoder(folder, pooling, batch_size)
    return LibraryEncoder(place, folder, batch_size)


class TransformerEncoder:
    """A transformer in float32 whose last hidden states are pooled, as sentence-transformers computes it.

    Texts are cut to the folder's `max_seq_length`, 256 tokens for all-MiniLM-L6-v2.
    """

    def __init__(self, folder: Path, pooling: Literal["cls", "mean"], batch_size: int) -> None:
        self.pooling = pooling
        self.batch_size = batch_size
        self.num_tokens: int | None = 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        # A text that spells out a control token must not have it.
        self.tokenizer.split_special_tokens = True
        model = AutoModel.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
        self.model = model.eval().to(self.device)
        own = encoders.settings(folder, "sentence_bert_config.json").get("max_seq_length")
        limits = (own or self.tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
        self.max_tokens = min(limit for limit in limits if limit is not None)
        prompts = encoders.settings(folder, "config_sentence_transformers.json").get("prompts") or {}
        # A folder may have a text that stands before every query or document.
        self.prompts: dict[Role, str] = {role: prompts.get(role) or "" for role in ("query", "document")}

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], role: Role) -> np.ndarray:
        found = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        # Texts of similar length share a batch, so that little is padded.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            batch = self.tokenizer(
                [self.prompts[role] + texts[i] for i in places],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            ).to(self.device)
            self.num_tokens = (self.num_tokens or 0) + int(batch["attention_mask"].sum())
            hidden = self.model(**batch).last_hidden_state
            pooled = hidden[:, 0] if self.pooling == "cls" else _mean(hidden, batch["attention_mask"])
            found[places] = torch.nn.functional.normalize(pooled, p=2, dim=1).cpu().numpy()
        return found


class LibraryEncoder:
    """Any other modules, loaded by sentence-transformers."""

    def __init__(self, place: str, folder: Path, batch_size: int) -> None:
        library = load("sentence_transformers", f"{place}={str(folder)!r}")
        self.batch_size = batch_size
        self.num_tokens: int | None = None
        self.model = library.SentenceTransformer(
            str(folder), trust_remote_code=False, local_files_only=True, model_kwargs={"use_safetensors": True}
        )

    def encode(self, texts: Sequence[str], role: Role) -> np.ndarray:
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        found = encode(list(texts), batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, np.float32)


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the hidden states [N, L, D] over the tokens that are no padding."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _pooling(folder: Path, modules: Sequence[dict[str, Any]]) -> Literal["cls", "mean"] | None:
    """Find the pooling of a folder that `TransformerEncoder` can compute; None for any other."""
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or modules[0]["path"]:
        return None
    if encoders.settings(folder, "sentence_bert_config.json").get("do_lower_case"):
        return None
    given = encoders.settings(folder / modules[1]["path"], "config.json")
    if not given.get("include_prompt", True):
        return None
    modes = [name for name in given if name.startswith("pooling_mode_") and given[name] is True]
    mode = given.get("pooling_mode") or (_POOLING.get(modes[0]) if len(modes) == 1 else None)
    return mode if mode in ("cls", "mean") else None
