"""Dynamic sampling with a cap: replaces groups without a learning signal by groups of other prompts.

A group with zero reward variance has no advantages. Another prompt's group takes its place in the step, up to the cap;
a group without a replacement stays and is skipped. The number of completions in a step does not change, so neither
does a loss denominator. DAPO, https://arxiv.org/abs/2503.14476, section 3.2, samples until a batch is full. Its
criterion, all answers right or all wrong, becomes the reward's standard deviation here: ranking rewards are continuous.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rl_rerank.training.grpo.judging import Judged


@dataclass(frozen=True)
class Group:
    """The completions of one question, in order."""

    question: int
    completion_ids: Sequence[list[int]]
    log_probs: Sequence[list[float]] | None
    """Log-probabilities of the sampled tokens under the sampling engine, if it returns them."""
    judged: Sequence[Judged]
    rewards: Sequence[float]
    """Weighted sum of each completion's terms."""


@dataclass(frozen=True)
class Refill:
    """The criterion for dead groups, and the prompts that may replace them."""

    prompts_per_step: int
    """Prompts of a batch of completions, over all processes."""
    rounds: int
    """Maximum number of times that dead groups are replaced per batch."""
    min_std: float = 0.0
    """Reward standard deviation at or below which a group is dead."""

    @property
    def block(self) -> int:
        """Questions reserved for a batch: its own and the spare ones."""
        return self.prompts_per_step * (1 + self.rounds)

    def is_asked(self, question: int) -> bool:
        """Whether a question is one of a batch's own, not a spare."""
        return question % self.block < self.prompts_per_step

    def is_dead(self, group: Group) -> bool:
        """Whether the group has zero or nearly zero reward variance."""
        return statistics.pstdev(group.rewards) <= self.min_std

    def spares(self, question: int, attempt: int, process: int, share: int, count: int) -> list[int]:
        """Choose spare questions of the same batch that no other attempt or process uses.

        Args:
            question: any of the batch's.
            attempt: from 0 to `rounds` - 1.
            share: prompts of a process in a batch.
            count: number of questions, at most `share`.
        """
        first = question // self.block * self.block + self.prompts_per_step * (1 + attempt) + process * share
        return list(range(first, first + count))

    def __call__(
        self,
        groups: Sequence[Group],
        sample: Callable[[Sequence[int]], list[Group]],
        most: Callable[[int], int],
        process: int,
    ) -> list[Group]:
        """Replace a process's dead groups by live ones, in the same places.

        Args:
            sample: samples groups of questions; every process calls it equally often, with equally many questions.
            most: the maximum of a number over all processes.
        """
        found = list(groups)
        for attempt in range(self.rounds):
            dead = [place for place, group in enumerate(found) if self.is_dead(group)]
            if not (count := most(len(dead))):
                break
            asked = self.spares(found[0].question, attempt, process, len(found), count)
            live = [group for group in sample(asked) if not self.is_dead(group)]
            for place, group in zip(dead, live, strict=False):
                found[place] = group
        return found


def groups(trainer: Any, refill: Refill, keys: Sequence[int]) -> list[Group]:
    """Sample the groups of this process's questions in our trl.GRPOTrainer, with dead groups replaced.

    Args:
        keys: the questions of a generation batch, each repeated once per completion.
    """
    accelerator = trainer.accelerator
    first = _sampled(trainer, keys[:: trainer.num_generations])

    def most(number: int) -> int:
        return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())

    found = refill(first, partial(_sampled, trainer), most, accelerator.process_index)
    replaced = [new is not old for new, old in zip(found, first, strict=True)]
    trainer._log_metric("refill/replaced_groups", sum(replaced) / len(replaced))
    # The reward that is logged is that of the groups that were kept.
    rewards = [value for group in first for value in group.rewards]
    trainer._log_metric("refill/reward_before", sum(rewards) / len(rewards))
    return found


def _sampled(trainer: Any, questions: Sequence[int]) -> list[Group]:
    """Sample, judge and score a group for each question."""
    size = trainer.num_generations
    keys = [question for question in questions for _ in range(size)]
    prompt_ids, images, fields = trainer._tokenize_prompts([str(key) for key in keys])
    completions, log_probs = trainer._generate_single_turn(prompt_ids, images, fields, size)
    with trainer.phases("reward"):
        judged = trainer.judge(keys, completions)
    rewards = [trainer.judge.reward(row) for row in judged]
    found = []
    for start in range(0, len(keys), size):
        rows = slice(start, start + size)
        given = None if log_probs is None else log_probs[rows]
        found.append(Group(keys[start], completions[rows], given, judged[rows], rewards[rows]))
    return found
