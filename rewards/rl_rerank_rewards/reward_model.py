"""A reward model as trl trains them, as a term."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from rl_rerank.requirements import load
from rl_rerank.reward.base import Breakdown
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import WRITTEN


@dataclass(frozen=True)
class RewardModel:
    """The score of a sequence-classification model with one label, such as trl's RewardTrainer leaves; any number.

    It reads the prompt and the completion as one conversation in its own chat template, as `trl.GRPOTrainer` has a
    reward model read them. Completions of a prompt are scored in one forward. Documents are not shrunk: the prompt has
    to fit. Needs the extra train.

    Paradigms: listwise, groupwise, setwise, pairwise, pointwise, pointwise_graded.

    Source: trl's `GRPOTrainer._calculate_rewards`.
    """

    model: str
    """A folder or a hub id."""
    device: str = "cpu"
    """With workers it is loaded once in each of them."""
    dtype: str = "float32"

    paradigms: ClassVar[tuple[str, ...]] = WRITTEN
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    asks_model: ClassVar[bool] = True
    unclaimed: ClassVar[dict[str, str]] = dict.fromkeys(
        ("gold_best", "orders", "pays_identity", "pays_constant", "pays_partial"), "the model decides"
    )

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        return self.explain_group(example, [rollout])[0].value

    def explain_group(self, example: RankingExample, rollouts: Sequence[Rollout]) -> list[Breakdown]:
        """A value for each completion of one prompt."""
        conversations = [
            [
                *({"role": m.role, "content": m.text} for m in rollout.prompt.messages),
                {"role": "assistant", "content": rollout.completion.text},
            ]
            for rollout in rollouts
        ]
        return [Breakdown(score) for score in self._scorer(conversations)]

    @cached_property
    def _scorer(self) -> Any:
        # Rewards are listed and checked where torch is not installed.
        return load("rl_rerank.training.loop.classifier", "the reward reward_model").Classifier(
            self.model, self.device, self.dtype
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the weights, which another process loads anew."""
        return {k: v for k, v in self.__dict__.items() if k != "_scorer"}
