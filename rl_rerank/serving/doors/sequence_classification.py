"""The weights of a sequence classifier, as any program that loads classifiers asks them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from rl_rerank.serving.contract import GoldenScores
from rl_rerank.serving.doors.pairs import PairPrompts


class SequenceClassificationDoor:
    """Scores golden entries by a classifier's logit."""

    def __init__(self, folder: Path, trust_remote_code: bool) -> None:
        """
        Raises:
            FileNotFoundError: if there is no such folder.
        """
        if not folder.is_dir():
            raise FileNotFoundError(
                f"there is no {folder.name!r} in the exported folder; export with "
                "stages.NAME.sequence_classification=true"
            )
        self.prompts = PairPrompts(folder, trust_remote_code)
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True, trust_remote_code=trust_remote_code
        ).eval()

    @torch.no_grad()
    def answer(self, golden: GoldenScores) -> GoldenScores:
        """Score an entry.

        Raises:
            ValueError: if the position that is read is padding.
        """
        shown = self.prompts(golden.query, golden.documents)
        tokenizer = self.prompts.tokenizer
        rows = tokenizer.pad({"input_ids": [p.token_ids for p in shown]}, return_tensors="pt")
        logits = self.model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
        return GoldenScores(query=golden.query, documents=golden.documents, scores=logits[:, 0].tolist(), prompts=shown)

    def problems(self, golden: Sequence[GoldenScores]) -> Iterator[str]:
        """Say which settings would change scores, or change them one day."""
        if self.model.config.num_labels != 1:
            yield f"the classifier has {self.model.config.num_labels} labels, and the score is the logit of one"
        yield from self.prompts.problems()

    def close(self) -> None:
        """Free the model's memory."""
        del self.model
