"""On-policy distillation: a teacher's probability of every token of the student's own completions as an advantage.

With q the teacher and p the policy, both at the temperature of sampling, a token's advantage is

    A_t + weight (log q(y_t | y_1..t-1) - log p(y_t | y_1..t-1))

where A_t is that of the reward, and p has no gradient. In expectation over y_t from p, the second term moves p down the
gradient of weight KL(p || q) at the prefix:

    grad KL(p || q) = E_p[(log p - log q) grad log p] + E_p[grad log p], and the last expectation is 0.

Prefixes count as given, so a token answers for itself alone: no return is summed over the tokens behind it. The term is
added to advantages that are already scaled, and is not scaled itself. In updates off policy, p is the policy that is
trained and not the one that sampled; the loss's ratio corrects for the difference.

Sources: the reverse KL on the student's own samples: GKD, https://arxiv.org/abs/2306.13649; its gradient token by
token, the single-step part of MiniLLM's: https://arxiv.org/abs/2306.08543; as an advantage: Lu 2025,
https://thinkingmachines.ai/blog/on-policy-distillation
"""

# Shape legend: B completions, C completion tokens, P prompt tokens.

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from trl.models.utils import prepare_deepspeed
from trl.trainer.utils import add_fused_lm_head

from rl_rerank.packed import forward
from rl_rerank.training.grpo.log_probs import Found, LogProbs
from rl_rerank.training.loop.watch import UnhealthyError

KEY = "teacher_per_token_logps"
"""The teacher's log-probabilities [B, C] in a batch of completions."""


def advantages(of_rewards: Tensor, teacher: Tensor, policy: Tensor, weight: float) -> Tensor:
    """Add the teacher's part to the advantages of completions: [B, C].

    Args:
        of_rewards: [B].
        teacher: [B, C], log-probabilities of the sampled tokens.
        policy: [B, C], the same under the policy, without a gradient.
    """
    return of_rewards.unsqueeze(1) + weight * (teacher - policy)


class TeacherModel(NamedTuple):
    """A teacher as it was read."""

    model: Any
    """Whole, or sharded by ZeRO-3."""
    weight: float
    """Of its part of an advantage, above 0."""


class Teacher:
    """A frozen model beside the policy of a trl.GRPOTrainer.

    Args:
        wanted: whether prompts are shared if the model can.
    """

    def __init__(self, trainer: Any, teacher: TeacherModel, wanted: bool) -> None:
        self.trainer = trainer
        model, self.weight = teacher
        refusal = forward.refusal(model) if wanted else "the configuration says so"
        add_fused_lm_head(model, temperature=trainer.temperature)
        accelerator = trainer.accelerator
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            self.model: Any = prepare_deepspeed(model, accelerator)
        else:
            self.model = accelerator.prepare_model(model, evaluation_mode=True)
        if refusal is None:  # around what accelerate puts around the forward, as in the policy
            forward.install(accelerator.unwrap_model(self.model))
        self.log_probs = LogProbs(
            trainer.log_probs.trl,
            accelerator,
            num_generations=trainer.num_generations,
            temperature=trainer.temperature,
            refusal=refusal,
        )

    @torch.no_grad()
    def score(self, batch: dict[str, Any]) -> Tensor:
        """Compute the log-probabilities of a batch's completions: [B, C], 0 at padding.

        Raises:
            UnhealthyError: on every process, if one of any process is not finite.
        """
        ids, mask, length = joined(batch)
        with self.trainer.phases("ref"):
            parts = self.trainer.forward_parts(mask, length)
            found: Found = self.log_probs(self.model, ids, mask, length, parts=parts)
        is_finite = torch.isfinite(found.log_probs).all().float().reshape(1)
        if not self.trainer.accelerator.gather(is_finite).all():
            raise UnhealthyError(
                f"step {self.trainer.state.global_step + 1}: the teacher gives completions probabilities that are not "
                "finite, so nothing can be learned from it; look at its weights and at its type, model.dtype"
            )
        return found.log_probs

    def apply(self, inputs: dict[str, Any], log_probs: Tensor) -> None:
        """Give a micro-batch advantages [B, C] with the teacher's part; log the estimated KL as `teacher_kl`.

        Args:
            log_probs: [B, C], of the update.
        """
        log_probs, mask = log_probs.detach(), inputs["completion_mask"]
        inputs["advantages"] = advantages(inputs["advantages"], inputs[KEY], log_probs, self.weight)
        here = torch.stack([((log_probs - inputs[KEY]) * mask).sum(), mask.sum().float()])
        total = self.trainer.accelerator.reduce(here, reduction="sum")
        self.trainer.log_once("teacher_kl", (total[0] / total[1].clamp(min=1.0)).item())


def joined(batch: dict[str, Any]) -> tuple[Tensor, Tensor, int]:
    """Join the prompts and completions of a batch: token ids and mask [B, P + C], and C."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    return ids, mask, batch["completion_mask"].size(1)
