"""Supervised training of scores: a ranking loss over lists plus the cross-entropy of the correct answers.

A ranking loss depends on differences between documents only. Alone, it lets p(positive) drift to 0 or 1 for all of
them, and the model forgets to end its answers, so its samples become useless. `answer_weight` times the mean
cross-entropy of the correct answers and their end tokens prevents both. FIRST, https://arxiv.org/abs/2406.15657, uses
weights 1 and 10 for the two, an answer_weight of .1.
"""

from typing import Any

from accelerate.utils import gather_object
from torch import nn
from transformers import Trainer

from rl_rerank.config import CurriculumConfig
from rl_rerank.training.exact.lists import ListCollator
from rl_rerank.training.exact.weights import loss_weights
from rl_rerank.training.loop.label_scores import LabelScores
from rl_rerank.training.losses.base import RankingLoss


class RankingTrainer(Trainer):
    """Trains scores by a ranking loss, a mean over lists. The dataset's rows are indices into the collator's lists."""

    def __init__(
        self,
        *,
        loss: RankingLoss,
        answer_weight: float,
        data_collator: ListCollator,
        pad_id: int,
        curriculum: CurriculumConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_collator=data_collator, **kwargs)
        self.scored = LabelScores(self, [self.model], pad_id)
        self.reading = data_collator.reading
        self.loss = loss
        self.answer_weight = answer_weight
        self.curriculum = curriculum
        self._shares: list[float] = []

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = self.scored(model, inputs["packed"])
        scores = self.reading.scores(labels, inputs)
        self._shares.append(self.reading.answer_share(labels, inputs))
        weights = loss_weights(inputs, self.curriculum, self.state.global_step)
        loss = self.loss(scores, inputs["grades"], inputs["mask"], **weights).mean()
        if self.answer_weight:
            loss = loss - self.answer_weight * labels.log_probs[inputs["read"] :].mean()
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the mean share of the probability that lies on the scored answers since the last call."""
        if shares := gather_object(self._shares):
            logs["answer_share"] = sum(shares) / len(shares)
        self._shares = []
        super().log(logs, *args, **kwargs)
