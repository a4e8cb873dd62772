"""policy=scores: samples orders of a list from its documents' scores and rewards them as listwise answers.

The scores of one forward define a Plackett-Luce distribution over orders. G orders are sampled for each list. Each
becomes the rollout of a listwise prompt whose answer is that order, so any reward applies. With advantages A of the
sampled orders y the loss of a list is

    -mean over y of A(y) log p(y) + mean over y of C(y) + loss_weight (ranking loss)

    C(y) = beta KL(y; start) + distill KL(y; teacher) - entropy H(y)

where KL(y; q) and H(y) are sums over the places of y, in expectation over each place (`plackett_luce`). The score
function term of C is included: C(y), centred like a reward, is subtracted from A. Each sample is used for one update,
so there are no importance ratios.

The teacher is the Plackett-Luce distribution of its scores of the documents, divided by a temperature. On-policy
distillation minimises KL(p || teacher), the mean of KL(y; teacher) over orders y that the policy draws. An advantage
log teacher(y) - log p(y) has the same expectation and more variance: places have few choices, so each one's divergence
is a sum here, where tokens need samples of it (`grpo.distillation`).

Sources: group-relative advantages, https://arxiv.org/abs/2402.03300; the reverse KL on the student's own samples: GKD,
https://arxiv.org/abs/2306.13649; a Plackett-Luce policy over the logits of one forward, and its KL, are ours.
"""

# Shape legend: L lists, N documents (padded), G orders of a list.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rl_rerank.config import CurriculumConfig
from rl_rerank.packed.head import Scored
from rl_rerank.paradigms.labels import NUMBERS
from rl_rerank.paradigms.listwise import ORDER
from rl_rerank.reward.base import Term, total
from rl_rerank.training.exact import rank_gradients
from rl_rerank.training.exact.lists import ListCollator, RankedList, Reading, Share
from rl_rerank.training.exact.plackett_luce import Placed, entropy, kl, place, sample
from rl_rerank.training.exact.trainer import Outcome
from rl_rerank.training.exact.weights import logged_weights, loss_weights
from rl_rerank.training.loop import scoring, table
from rl_rerank.training.loop.on_index import OnIndex
from rl_rerank.training.loop.training_prompts import Question
from rl_rerank.training.losses.base import RankingLoss
from rl_rerank.types import Completion, Rollout


@dataclass(frozen=True)
class ScoreSettings:
    """Training settings of a policy on scores, named as in the stage."""

    num_generations: int
    temperature: float = 1.0
    estimator: str = "group"
    top_k: int | None = None
    scale: bool = False
    """Divide advantages by the standard deviation of the list's rewards."""
    beta: float = 0.0
    entropy: float = 0.0
    distill: float = 0.0
    """Weight of the KL to the teacher that the examples' scores define."""
    teacher_temperature: float = 1.0
    loss: RankingLoss | None = None
    loss_weight: float = 1.0
    curriculum: CurriculumConfig | None = None
    """Of the weights of pairs in the loss."""
    max_steps: int = 1
    """Of the training, along which a loss may change."""
    permute_rewards: bool = False
    seed: int = 1


class ScoresObjective:
    """The objective over orders of lists, sampled from their scores."""

    def __init__(
        self,
        lists: Sequence[RankedList],
        reading: Reading,
        terms: Sequence[Term],
        settings: ScoreSettings,
    ) -> None:
        self.lists = lists
        self.reading = reading
        self.terms = terms
        self.settings = settings
        self.beta = settings.beta
        self.questions = OnIndex(len(lists), self._question)
        self.collate = ListCollator(lists, reading, with_answers=False)
        self.label_temperature = 1.0

    def policy(self, labels: Scored, batch: Mapping[str, Any]) -> Tensor:
        """Read [L, N] scores, divided by the temperature."""
        return self.reading.scores(labels, batch) / self.settings.temperature

    def answer_share(self, labels: Scored, batch: Mapping[str, Any]) -> Share:
        return self.reading.answer_share(labels, batch)

    def outcome(self, batch: Mapping[str, Any], policy: Tensor, reference: Tensor | None, step: int) -> Outcome:
        own, mask = self.settings, batch["mask"]
        generators = [torch.Generator().manual_seed(own.seed * 1_000_003 + number) for number in batch["index"]]
        orders = sample(policy, mask, own.num_generations, generators)
        placed = place(policy, orders, mask, own.top_k)
        behind = None if reference is None else place(reference, orders, mask, own.top_k)
        scored = self._rewards(batch["index"], orders.tolist())
        rewards = policy.new_tensor(
            [[total(self.terms, {n: b.value for n, b in row.items()}) for row in one] for one in scored]
        )
        advantages = rank_gradients.group_advantages(self._learned(rewards, generators), scale=own.scale)
        loss = self._reward_loss(batch["index"], policy, placed, advantages)
        toward = place(self._teacher(batch, policy), orders, mask, own.top_k) if own.distill else None
        costs, metrics = self._costs(placed, behind, toward)
        if costs is not None:
            # The mean of the costs, and the score function of what they depend on.
            centred = rank_gradients.group_advantages(costs.detach(), scale=False)
            loss = loss + (costs + centred * placed.log_probs.sum(2)).mean()
        if own.loss is not None:
            loss_now = own.loss.at((step - 1) / own.max_steps)
            weights = loss_weights(batch, loss_now, own.curriculum, step - 1)
            scores, grades = policy * own.temperature, batch["grades"]
            ranking = loss_now(scores, grades, mask, item_weights=weights.items, pair_weights=weights.pairs).mean()
            loss = loss + own.loss_weight * ranking
            metrics["ranking_loss"] = ranking.item()
            metrics |= logged_weights(weights)[0]
        rows = self._rows(batch, step, scored, orders, rewards, advantages)
        return Outcome(loss, {**metrics, **self._figures(scored, rewards)}, rows)

    def _reward_loss(self, index: list[int], policy: Tensor, placed: Placed, advantages: Tensor) -> Tensor:
        """Build a scalar whose gradient is minus the estimated gradient of the mean expected reward over lists."""
        if self.settings.estimator == "group":
            return -(advantages * placed.log_probs.sum(2)).mean()
        estimate = {"pl_rank": rank_gradients.pl_rank, "moves": rank_gradients.moves}[self.settings.estimator]
        gradient = torch.zeros_like(policy)
        for term in self.terms:
            assert term.traits.position_based is not None  # the plan has refused others
            made = [term.traits.position_based(self.lists[i].example, self.lists[i].docids) for i in index]
            gains = rank_gradients.Gains.of(made, policy.size(1), policy)
            gradient = gradient + term.weight * estimate(gains, placed)
        return -(gradient.detach() * policy).sum(1).mean()

    def _teacher(self, batch: Mapping[str, Any], like: Tensor) -> Tensor:
        """Collect the teacher's [L, N] scores, divided by its temperature; 0 for padding."""
        rows = []
        for one in map(self.lists.__getitem__, batch["index"]):
            known = one.example.scores or {}
            rows.append([*(known[d] for d in one.docids), *[0.0] * (like.size(1) - len(one.docids))])
        return like.new_tensor(rows) / self.settings.teacher_temperature

    def _costs(
        self, placed: Placed, behind: Placed | None, toward: Placed | None
    ) -> tuple[Tensor | None, dict[str, float]]:
        """Compute [L, G] beta KL + distill KL - entropy H, None if all weights are 0, and the means to log."""
        metrics: dict[str, float] = {}
        weighs = self.settings.entropy > 0
        with torch.set_grad_enabled(weighs):
            spread = entropy(placed)
        metrics["entropy"] = spread.mean().item()
        costs = -self.settings.entropy * spread if weighs else None
        if behind is not None:
            apart = kl(placed, behind)
            metrics["kl"] = apart.mean().item()
            costs = self.beta * apart + (0.0 if costs is None else costs)
        if toward is not None:
            apart = kl(placed, toward)
            metrics["teacher_kl"] = apart.mean().item()
            costs = self.settings.distill * apart + (0.0 if costs is None else costs)
        return costs, metrics

    def _rewards(self, index: list[int], orders: list[list[list[int]]]) -> list[list[dict[str, Any]]]:
        """Compute every term's value of every order, list by list."""
        rows: list[scoring.Row] = []
        for number, drawn in zip(index, orders, strict=True):
            for order in drawn:
                rollout = self._rollout(number, order)
                rows.append((number, rollout.completion, rollout.judgment))
        # A list is one prompt, so its orders are together on this process.
        g = self.settings.num_generations
        scored = scoring.score_rows(self.terms, self.questions, rows, list, num_generations=g)
        return [scored.values[start : start + g] for start in range(0, len(rows), g)]

    def _question(self, number: int) -> Question:
        one = self.lists[number]
        return Question(one.example, ORDER.prompt(one.example, one.docids), (), number)

    def _rollout(self, number: int, order: list[int]) -> Rollout:
        """Turn an order of a list into the answer to a listwise prompt, without the padding after its documents."""
        prompt = self.questions[number].prompt
        completion = Completion(NUMBERS.ordered(document + 1 for document in order[: len(prompt.docids)]))
        return Rollout(prompt, completion, ORDER.parse(prompt, completion, strict=True))

    def _learned(self, rewards: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Permute the rewards within lists if this run is the control; otherwise keep them."""
        if not self.settings.permute_rewards:
            return rewards
        turns = [torch.randperm(rewards.size(1), generator=generator) for generator in generators]
        return rewards.gather(1, torch.stack(turns).to(rewards.device))

    def _figures(self, scored: list[list[dict[str, Any]]], rewards: Tensor) -> dict[str, float]:
        figures = {"reward": rewards.mean().item(), "reward_std": rewards.std(1).mean().item()}
        flat = [row for one in scored for row in one]
        for term in self.terms:
            values = torch.tensor([row[term.name].value for row in flat])
            figures[f"rewards/{term.name}/mean"] = values.mean().item()
            figures |= scoring.term_metrics(term.name, values, self.settings.num_generations)
            figures[f"rewards/{term.name}/gated"] = sum("gate" in row[term.name].parts for row in flat) / len(flat)
            for part in dict.fromkeys(part for row in flat for part in row[term.name].parts):
                parts = [row[term.name].parts[part] for row in flat if part in row[term.name].parts]
                figures[f"rewards/{term.name}/{part}/mean"] = sum(parts) / len(parts)
        return figures

    def _rows(
        self,
        batch: Mapping[str, Any],
        step: int,
        scored: list[list[dict[str, Any]]],
        orders: Tensor,
        rewards: Tensor,
        advantages: Tensor,
    ) -> list[dict[str, Any]]:
        """Build the completions table's rows from the first sampled order of each list."""
        rows = []
        for i, number in enumerate(batch["index"]):
            values = {name: found.value for name, found in scored[i][0].items()}
            rollout = self._rollout(number, orders[i, 0].tolist())
            row = table.row(step, self.lists[number].example, rollout, values, rewards[i, 0].item())
            rows.append({**row, "advantage": advantages[i, 0].item()})
        return rows
