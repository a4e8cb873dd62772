"""Supervised training of scores: a ranking loss over lists plus the cross-entropy of the correct answers.

A ranking loss depends on differences between documents only. Alone, it lets p(positive) drift to 0 or 1 for all of
them, and the model forgets to end its answers, so its samples become useless. `answer_weight` times the mean
cross-entropy of the correct answers and their end tokens prevents both. FIRST, https://arxiv.org/abs/2406.15657, uses
weights 1 and 10 for the two, an answer_weight of .1.
"""

from typing import Any

from torch import nn

from rl_rerank.config import CurriculumConfig
from rl_rerank.training.exact.lists import ListCollator
from rl_rerank.training.exact.weights import logged_weights, loss_weights
from rl_rerank.training.loop.budget_trainer import BudgetTrainer
from rl_rerank.training.loop.label_scores import LabelScores
from rl_rerank.training.loop.logged_means import LoggedMeans
from rl_rerank.training.losses.base import RankingLoss


class RankingTrainer(BudgetTrainer):
    """Trains scores by a ranking loss, a mean over a step's lists, and the cross-entropy of answers, a mean over its
    tokens. The dataset's rows are indices into the collator's lists."""

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
        self._means = LoggedMeans()

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = self.scored(model, inputs["packed"])
        scores = self.reading.scores(labels, inputs)
        share = self.reading.answer_share(labels, inputs)
        self._means.add({"answer_share": share.mean}, share.prompts)
        ranking = self.loss.at(self.state.global_step / max(self.state.max_steps, 1))
        weights = loss_weights(inputs, ranking, self.curriculum, self.state.global_step)
        self._means.add(*logged_weights(weights))
        of_lists = ranking(
            scores, inputs["grades"], inputs["mask"], item_weights=weights.items, pair_weights=weights.pairs
        )
        loss = of_lists.mean() * inputs.get("share", 1.0)
        if num_items_in_batch is not None:
            loss = loss / self.current_gradient_accumulation_steps
        if self.answer_weight:
            log_probs = labels.log_probs[inputs["read"] :]
            loss = loss - self.answer_weight * self.mean_over_step(log_probs, num_items_in_batch)
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the mean share of the probability that lies on the scored answers, and the weights by the curriculum."""
        logs.update(self._means.take())
        super().log(logs, *args, **kwargs)
