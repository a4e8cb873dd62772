"""Cross-encoders: models with a head that gives one number for a query and a document."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from rl_rerank.config import ModelConfig
from rl_rerank.engines.base import NO_USAGE, Capability, OnCompletion
from rl_rerank.engines.local import pairs
from rl_rerank.engines.local.tokenizer import check_size
from rl_rerank.types import Completion, Prompt, Sampling

NOUN = "cross-encoder"
PAIRS_AT_ONCE = 512
"""Pairs per call with a completion callback, which a kill can lose."""


class CrossEncoderEngine:
    """Scores with a sentence-transformers CrossEncoder, on a GPU if available.

    Args:
        path: a folder with a sequence-classification model of one label.
        model: dtype, token budgets (limited by the model's context), and whether the folder's code may run.
    """

    capabilities = frozenset({Capability.pair, Capability.duo})
    usage = NO_USAGE

    def __init__(self, path: Path, model: ModelConfig, *, batch_size: int = 32) -> None:
        _check_head(path)
        self.batch_size = batch_size
        self.encoder = CrossEncoder(
            str(path),
            trust_remote_code=model.trust_remote_code,
            local_files_only=True,
            activation_fn=torch.nn.Identity(),
            model_kwargs={"dtype": getattr(torch, model.dtype), "use_safetensors": True},
        )
        self.max_tokens = min(self.encoder.max_seq_length or model.max_prompt_tokens, model.max_prompt_tokens)
        self.encoder.max_seq_length = self.max_tokens
        self.tokenizer: Any = self.encoder.tokenizer
        check_size(self.tokenizer, path)
        # A document that spells out a control token must not have it.
        self.tokenizer.split_special_tokens = True
        self.texts = pairs.PairTexts(self.tokenizer, self.max_tokens, model.max_passage_tokens)

    def render(self, prompt: Prompt) -> Any:
        """Render the pair and the length that it is cut to."""
        return [*self.texts(prompt), self.max_tokens]

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        raise ValueError(f"a {NOUN} generates no text; use engine=hf, vllm or openai")

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        """Compute log-probabilities of the positive and the negative answer, given in this order by `continuations`.

        Raises:
            ValueError: unless there are two continuations and every prompt shows one document or two.
        """
        pairs.check_answers(continuations, NOUN)
        asked = [self.texts(prompt) for prompt in prompts]
        found: list[Completion] = []
        step = max(len(asked), 1) if on_completion is None else PAIRS_AT_ONCE
        for start in range(0, len(asked), step):
            some: Any = asked[start : start + step]
            logits = self.encoder.predict(some, batch_size=self.batch_size, show_progress_bar=False).tolist()
            for x in logits:
                found.append(pairs.scored(x, continuations))
                if on_completion is not None:
                    on_completion(len(found) - 1, 0, found[-1])
        return found

    def close(self) -> None:
        """Free the model's memory."""
        del self.encoder
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _check_head(path: Path) -> None:
    """Refuse a model without a one-label head, which would be initialised at random.

    Raises:
        ValueError: with the folder and its content.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    architectures = config.get("architectures") or []
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise ValueError(
            f"{str(path)!r} holds {', '.join(architectures) or 'a model of unknown kind'}, which is no cross-encoder: "
            "engine=cross_encoder needs a sequence-classification model"
        )
    labels = config.get("id2label") or {0: "", 1: ""}  # transformers leaves its default out
    if len(labels) != 1:
        raise ValueError(f"{str(path)!r} gives {len(labels)} numbers for a pair; a cross-encoder that ranks gives one")
