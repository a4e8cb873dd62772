"""The task of a GRPO run, which turns a completion's tokens into a rollout for rewards."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rl_rerank.engines.decode import completion
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.reward.base import Term
from rl_rerank.training.loop.training_prompts import Question
from rl_rerank.types import Rollout


@dataclass(frozen=True)
class Task:
    """A learning task: questions, the parser of their answers, and rewards."""

    questions: Sequence[Question]
    paradigm: Paradigm
    terms: Sequence[Term]
    permute_rewards: bool = False
    """Train on rewards permuted within groups, a control that must not learn."""

    def rollout(self, question: int, ids: Sequence[int], tokenizer: Any, end_ids: Collection[int]) -> Rollout:
        """Parse the answer `ids` to a question strictly.

        Args:
            ids: the tokens of a completion, up to and including any end token.
        """
        prompt = self.questions[question].prompt
        answer = completion(ids, end_ids, tokenizer)
        return Rollout(prompt, answer, self.paradigm.parse(prompt, answer, strict=True))
