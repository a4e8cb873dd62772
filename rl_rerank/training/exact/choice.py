"""policy=choice: reward every answer that a prompt may have, weighted by its probability.

With p the policy over a prompt's answers a, each of which earns R(a), the loss of a prompt is

    -sum over a of p(a) R(a) + beta KL(p || p of the reference) - entropy H(p)

summed exactly: nothing is sampled, and the gradient has no variance but that of the prompts. With `scale`, R is divided
by its standard deviation under p, which is the limit of group-relative advantages as the group grows.

The policy is the model's, restricted to the answers: p(a) is the product over the decisions that lead to it
(`answer_tree`) of the softmax over that decision's options. With `restrict_to_answers=False` the softmax is over all
tokens, and all other text counts as one further answer, with the reward of an empty completion: that teaches the form
as well.
"""

# Shape legend: B prompts, A answers (padded; not restricted: anything else comes first), D decisions of all prompts,
# O options (padded), P decisions on a path.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rl_rerank.packed.head import Scored
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.reward.base import Term, evaluate, total
from rl_rerank.training.exact.choice_batches import ChoiceCollator
from rl_rerank.training.exact.lists import Share
from rl_rerank.training.exact.trainer import Outcome
from rl_rerank.training.loop import table
from rl_rerank.training.loop.training_prompts import Question
from rl_rerank.types import Completion, Prompt, Rollout

RARE = 1e-6
"""Lower bound on the probability mass outside the answer set, as rounding can make it 0 or negative."""


@dataclass(frozen=True)
class ChoiceSettings:
    """Settings of a choice's training, under the names of the stage's settings."""

    temperature: float = 1.0
    scale: bool = False
    """Whether to divide rewards by their standard deviation under the policy."""
    restrict_to_answers: bool = True
    beta: float = 0.0
    entropy: float = 0.0
    permute_rewards: bool = False
    seed: int = 1


class ChoiceObjective:
    """The objective of choosing one of few answers to each prompt.

    Raises:
        ValueError: if the paradigm does not limit its prompts to few answers, or a reward compares completions.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        paradigm: Paradigm,
        renderer: Renderer,
        terms: Sequence[Term],
        settings: ChoiceSettings,
    ) -> None:
        if not traits(paradigm).has_choices:
            raise ValueError(f"policy=choice: prompts of the paradigm {paradigm.name!r} do not have few answers")
        for term in terms:
            if term.needs_query:
                raise ValueError(f"policy=choice: the reward {term.name!r} compares completions, and none are sampled")
        self.questions = questions
        self.paradigm: Any = paradigm
        self.terms = terms
        self.settings = settings
        self.beta = settings.beta
        self.label_temperature = settings.temperature
        self.collate = ChoiceCollator(questions, paradigm, renderer, restricted=settings.restrict_to_answers)

    @torch.no_grad()
    def answer_share(self, labels: Scored, batch: Mapping[str, Any]) -> Share:
        shares = _options(labels.log_probs, batch)[batch["first"]].exp().sum(1)
        return Share(shares.mean().item(), len(shares))

    def policy(self, labels: Scored, batch: Mapping[str, Any]) -> Tensor:
        """Return the [B, A] log-probabilities of the answers, 0 at padding."""
        if self.settings.restrict_to_answers:
            assert labels.logits is not None
            each = (_options(labels.logits, batch) / self.settings.temperature).log_softmax(1)
        else:
            each = _options(labels.log_probs, batch)
        flat = torch.cat([each.masked_fill(~batch["is_option"], 0.0).flatten(), each.new_zeros(1)])
        answers = flat[batch["paths"]].sum(2)
        if self.settings.restrict_to_answers:
            return answers
        # A padded answer has log-probability 0, thus probability 1, and must not be subtracted. The difference cancels
        # nearly all digits in float32 once the model keeps to the form; below the bound the clamp passes no gradient
        # on, where the log of 0 would pass on an infinite one.
        left = 1 - (answers.exp() * batch["mask"][:, 1:]).sum(1, keepdim=True)
        return torch.cat([left.clamp(min=RARE).log(), answers], 1)

    def outcome(self, batch: Mapping[str, Any], policy: Tensor, reference: Tensor | None, step: int) -> Outcome:
        own, mask = self.settings, batch["mask"]
        scored = [self._rewards(number) for number in batch["index"]]
        rewards = torch.zeros_like(policy)
        for i, one in enumerate(scored):
            rewards[i, : len(one)] = rewards.new_tensor([total(self.terms, row) for row in one])
        # Padded answers have probability 1 before the mask. The gradient goes through p, never through the advantages:
        # the expectation of rewards is linear in p, so this is all of it.
        p = policy.exp() * mask
        with torch.no_grad():
            expected = (p * rewards).sum(1, keepdim=True)
            advantages = (self._learned(rewards, batch) - expected) * mask
            spread = (p * advantages**2).sum(1, keepdim=True).sqrt()
            # 1e-4 is what trl adds for sampled groups, so that the two agree in the limit; it also keeps the quotient
            # finite where the policy is certain and the spread 0.
            if own.scale:
                advantages = advantages / (spread + 1e-4)
        # A constant subtracted from the rewards changes no gradient, as the probabilities sum to 1.
        loss = -(p * advantages).sum(1)
        entropy = -(p * policy).sum(1)
        loss = loss - own.entropy * entropy
        metrics = {"entropy": entropy.mean().item()}
        if reference is not None:
            kl = (p * (policy - reference)).sum(1)
            loss = loss + self.beta * kl
            metrics["kl"] = kl.mean().item()
        figures = self._figures(scored, p, expected, spread)
        return Outcome(loss.mean(), {**metrics, **figures}, self._rows(batch, step, scored, p, rewards, advantages))

    def _rewards(self, number: int) -> list[dict[str, float]]:
        """Evaluate every term on every answer to a prompt, in the order of the policy."""
        question = self.questions[number]
        rollouts = self._rollouts(question.prompt)
        found = {term.name: evaluate(term, question.example, rollouts) for term in self.terms}
        return [{name: values[i].value for name, values in found.items()} for i in range(len(rollouts))]

    def _rollouts(self, prompt: Prompt) -> list[Rollout]:
        """Return a rollout of every answer to a prompt, in the order of the policy."""
        texts = (
            self.paradigm.choices(prompt) if self.settings.restrict_to_answers else ("", *self.paradigm.choices(prompt))
        )
        completions = [Completion(text) for text in texts]
        return [Rollout(prompt, c, self.paradigm.parse(prompt, c, strict=True)) for c in completions]

    def _learned(self, rewards: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the rewards to train on, which a control run permutes among a prompt's answers."""
        if not self.settings.permute_rewards:
            return rewards
        learned = rewards.clone()
        for i, number in enumerate(batch["index"]):
            count = int(batch["mask"][i].sum())
            # Seeded by the prompt and not by the step, so a prompt has the same wrong rewards in every pass: changing
            # ones would average out, and the control would learn nothing instead of something wrong. On the CPU, so
            # that every device draws the same. The factor keeps neighbouring seeds from sharing permutations.
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + number)
            learned[i, :count] = rewards[i, torch.randperm(count, generator=generator).to(rewards.device)]
        return learned

    def _figures(
        self, scored: list[list[dict[str, float]]], p: Tensor, expected: Tensor, spread: Tensor
    ) -> dict[str, float]:
        """Compute expectations under the policy, for the log."""
        figures = {"reward": expected.mean().item(), "reward_std": spread.mean().item()}
        for term in self.terms:
            values = [[row[term.name] for row in one] for one in scored]
            means = [sum(q * v for q, v in zip(p[i].tolist(), one, strict=False)) for i, one in enumerate(values)]
            flat = [v for one in values for v in one]
            constant = [max(one) == min(one) for one in values]
            figures |= {
                f"rewards/{term.name}/mean": sum(means) / len(means),
                f"rewards/{term.name}/min": min(flat),
                f"rewards/{term.name}/max": max(flat),
                f"rewards/{term.name}/constant_groups": sum(constant) / len(constant),
            }
        return figures

    def _rows(
        self,
        batch: Mapping[str, Any],
        step: int,
        scored: list[list[dict[str, float]]],
        p: Tensor,
        rewards: Tensor,
        advantages: Tensor,
    ) -> list[dict[str, Any]]:
        """Return the likeliest answer to each prompt, for the table of completions."""
        rows = []
        for i, (number, best) in enumerate(zip(batch["index"], p.argmax(1).tolist(), strict=True)):
            question = self.questions[number]
            rollout = self._rollouts(question.prompt)[best]
            row = table.row(step, question.example, rollout, scored[i][best], rewards[i, best].item())
            rows.append({**row, "advantage": advantages[i, best].item()})
        return rows


def _options(values: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Arrange values [M] of a batch's labels as [D, O], minus infinity at padding."""
    is_option = batch["is_option"]
    return values.new_full(is_option.shape, -torch.inf).masked_scatter(is_option, values)
