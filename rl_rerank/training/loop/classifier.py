"""A sequence-classification model with one label, which scores conversations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rl_rerank.engines.local.tokenizer import check_size
from rl_rerank.prompts import clock


class Classifier:
    """Scores conversations as `trl.GRPOTrainer` has a reward model score them.

    Raises:
        ValueError: if the model has more than one label, no chat template, or fewer tokens than its tokenizer.
    """

    def __init__(self, path: str, device: str, dtype: str) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(path, dtype=getattr(torch, dtype))
        self.model.to(device).eval()
        if self.model.config.num_labels != 1:
            raise ValueError(f"the reward model {path!r} has {self.model.config.num_labels} labels, and needs one")
        check_size(self.tokenizer, Path(path))
        if self.tokenizer.chat_template is None:
            raise ValueError(f"the reward model {path!r} has no chat template, by which it would read a conversation")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id

    def __call__(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[float]:
        """Compute the label's logit for each conversation."""
        shown, date = self.tokenizer.apply_chat_template, clock.at(clock.DATE)
        texts = [shown(messages, tokenize=False, **date) for messages in conversations]
        texts = [text.encode(errors="replace").decode() for text in texts]  # no tokenizer takes half a character
        inputs = self.tokenizer(
            text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        )
        with torch.inference_mode():
            return self.model(**inputs.to(self.model.device)).logits[:, 0].float().tolist()
