"""The two ways to the log-probabilities of completions, and which of them is taken.

The plain way is trl's: a row for each completion. The shared way computes each prompt once for its group. On the first
batch both are compared; where they differ the plain one is taken from then on.
"""

# Shape legend: B completions, C completion tokens, L tokens of prompt and completion.

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rl_rerank.training.loop import precision
from rl_rerank.training.shared_prefix import attention, prefix

logger = logging.getLogger(__name__)

GAP_FLOAT32, GAP_REDUCED = 1e-3, 5e-2
"""How far apart the two ways may be on the first batch, in nats a token on average."""


class LogProbs:
    """Log-probabilities and entropies of completions, [B, C] each.

    Attributes:
        refusal: why prompts are not shared; None where they are.
    """

    def __init__(
        self,
        plain: Callable[..., tuple[Tensor, Tensor | None, Tensor | None]],
        accelerator: Accelerator,
        *,
        num_generations: int,
        temperature: float,
        refusal: str | None,
    ) -> None:
        """
        Args:
            plain: trl's `_get_per_token_logps_and_entropies`.
        """
        self.trl = plain
        self.accelerator = accelerator
        self.num_generations = num_generations
        self.temperature = temperature
        self.refusal = refusal
        self._is_verified = False

    @staticmethod
    def of(trainer: Any, plain: Callable[..., tuple[Tensor, Tensor | None, Tensor | None]], wanted: bool) -> LogProbs:
        """Build it for the policy and the reference of a trl.GRPOTrainer.

        Args:
            wanted: whether prompts are shared if the model can.
        """
        both = (model for model in (trainer.model, trainer.ref_model) if model is not None)
        models = [trainer.accelerator.unwrap_model(model) for model in both]
        refusal = prefix.refusal(models[0]) if wanted else "the configuration says so"
        for other in models[1:]:
            other.set_attn_implementation(models[0].config.get_text_config()._attn_implementation)
        for model in models if refusal is None else ():
            attention.install(model)
        settings = {"num_generations": trainer.num_generations, "temperature": trainer.temperature, "refusal": refusal}
        return LogProbs(plain, trainer.accelerator, **settings)

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        length: int,
        with_entropy: bool = False,
        parts: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """By the way that is taken.

        Args:
            input_ids: [B, L], prompts padded on the left and completions on the right.
            length: C, the columns of completions.
            parts: row numbers of each forward, whole groups; None: one forward.
        """
        if self.refusal is None and not self._is_verified:
            self._verify(model, input_ids, attention_mask, length)
        way = self.shared if self.refusal is None else self.plain
        if parts is None:
            return way(model, input_ids, attention_mask, length, with_entropy)
        found = [way(model, input_ids[rows], attention_mask[rows], length, with_entropy) for rows in parts]
        order = torch.cat(list(parts)).argsort()
        log_probs, entropies = zip(*found, strict=True)
        return torch.cat(log_probs)[order], torch.cat(entropies)[order] if with_entropy else None

    def plain(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, length: int, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """trl's own forward, a row for each completion, without the columns that are padding in every row."""
        split = input_ids.size(1) - length
        is_used = attention_mask.any(0)
        start = int(is_used[:split].int().argmax())
        kept = max(int(is_used[split:].sum()), 1)
        columns = slice(start, split + kept)
        asked = (input_ids[:, columns], attention_mask[:, columns], kept, None, with_entropy)
        log_probs, entropies, _ = self.trl(model, *asked)
        missing = (0, length - kept)
        if entropies is not None:
            entropies = nn.functional.pad(entropies, missing)
        return nn.functional.pad(log_probs, missing), entropies

    def shared(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, length: int, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The same with each prompt computed once for its group."""
        split = input_ids.size(1) - length
        with self.accelerator.autocast():
            return prefix.shared_log_probs(
                model,
                input_ids[:, :split],
                attention_mask[:, :split],
                input_ids[:, split:],
                attention_mask[:, split:],
                num_generations=self.num_generations,
                temperature=self.temperature,
                with_entropy=with_entropy,
            )

    def state(self) -> dict[str, Any]:
        """The way that is taken, for a checkpoint: a resumed run compares on no other batch."""
        return {"is_verified": self._is_verified, "refusal": self.refusal}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the way that a checkpoint's run took."""
        if state["is_verified"]:
            self._is_verified, self.refusal = True, state["refusal"]

    def _verify(self, model: Any, input_ids: Tensor, attention_mask: Tensor, length: int) -> None:
        """Compare both ways on the first group of every process; where they differ, take the plain one from now on."""
        self._is_verified = True
        group = slice(0, self.num_generations)
        asked = (model, input_ids[group], attention_mask[group], length)
        was_training = model.training
        model.eval()
        with torch.no_grad():
            apart = (self.plain(*asked)[0] - self.shared(*asked)[0]).abs()
        model.train(was_training)
        mask = attention_mask[group, -length:]
        mean = (apart * mask).sum() / mask.sum().clamp(min=1)
        everywhere = self.accelerator.gather(mean.reshape(1))
        assert isinstance(everywhere, Tensor)
        gap = everywhere.max().item()
        allowed = GAP_FLOAT32 if precision.computes_in_float32(self.accelerator, model) else GAP_REDUCED
        if gap <= allowed:
            logger.info("a prompt computed once for its group gives the same log-probabilities (%.1e nats apart)", gap)
        else:
            self.refusal = (
                f"on the first batch the log-probabilities were {gap:.2g} nats apart from those of separate rows, more "
                f"than {allowed}"
            )
            logger.warning("prompts are computed once a completion, not once a group: %s", self.refusal)
