"""The two ways to the log-probabilities of completions, and which of them is taken.

The plain way is trl's: a padded row for each completion. The other packs the completions of a micro-batch into one row,
in which every prompt occurs once. On the first batch both are compared; where they differ the plain one is taken from
then on.
"""

# Shape legend: B completions, C completion tokens, L tokens of prompt and completion.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rl_rerank.packed import forward
from rl_rerank.packed.layout import pack
from rl_rerank.packed.prefix import Prefix
from rl_rerank.training.grpo.micro_batches import Part
from rl_rerank.training.loop.label_scores import disagreement


class Found(NamedTuple):
    """What a forward gives, 0 at padding."""

    log_probs: Tensor
    """[B, C], natural logarithms."""
    entropies: Tensor | None
    """[B, C], of the distribution that each token is from."""
    aux_loss: Tensor | None = None
    """Load-balancing loss of a mixture of experts. In a packed row it counts every token once."""


class LogProbs:
    """Log-probabilities and entropies of completions.

    Attributes:
        refusal: why rows are not packed; None where they are.
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
        refusal = forward.refusal(models[0]) if wanted else "the configuration says so"
        for other in models[1:]:
            other.set_attn_implementation(models[0].config.get_text_config()._attn_implementation)
        for model in models if refusal is None else ():
            forward.install(model)
        settings = {"num_generations": trainer.num_generations, "temperature": trainer.temperature, "refusal": refusal}
        return LogProbs(plain, trainer.accelerator, **settings)

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        length: int,
        with_entropy: bool = False,
        with_aux_loss: bool = False,
        parts: Sequence[Part] | None = None,
        prefix: Prefix | None = None,
    ) -> Found:
        """By the way that is taken.

        Args:
            input_ids: [B, L], prompts padded on the left and completions on the right.
            length: C, the columns of completions.
            parts: the forwards; None: one forward. Without an auxiliary loss.
            prefix: of that one forward: the prompt that its rows continue.
        """
        if self.refusal is None and not self._is_verified:
            self._verify(model, input_ids, attention_mask, length)

        def found_in(rows: Tensor | slice, prefix: Prefix | None) -> Found:
            asked = (model, input_ids[rows], attention_mask[rows], length, with_entropy, with_aux_loss)
            return self.packed(*asked, prefix) if self.refusal is None else self.plain(*asked)

        if parts is None:
            return found_in(slice(None), prefix)
        found = [found_in(*part) for part in parts]
        order = torch.cat([part.rows for part in parts]).argsort()
        log_probs, entropies, _ = zip(*found, strict=True)
        return Found(torch.cat(log_probs)[order], torch.cat(entropies)[order] if with_entropy else None)

    def plain(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        length: int,
        with_entropy: bool = False,
        with_aux_loss: bool = False,
    ) -> Found:
        """trl's own forward, a row for each completion, without the columns that are padding in every row."""
        split = input_ids.size(1) - length
        is_used = attention_mask.any(0)
        start = int(is_used[:split].int().argmax())
        kept = max(int(is_used[split:].sum()), 1)
        columns = slice(start, split + kept)
        asked = (input_ids[:, columns], attention_mask[:, columns], kept, None, with_entropy, with_aux_loss)
        log_probs, entropies, aux_loss = self.trl(model, *asked)
        missing = (0, length - kept)
        if entropies is not None:
            entropies = nn.functional.pad(entropies, missing)
        return Found(nn.functional.pad(log_probs, missing), entropies, aux_loss)

    def packed(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        length: int,
        with_entropy: bool = False,
        with_aux_loss: bool = False,
        prefix: Prefix | None = None,
    ) -> Found:
        """The same in one row, in which every prompt, and whatever else completions begin with, occurs once.

        Args:
            prefix: the prompt of all rows, which the row then continues.
        """
        split = input_ids.size(1) - length
        ids, mask = input_ids.cpu().numpy(), attention_mask.bool().cpu().numpy()
        prompts = mask[:, :split].sum(1)
        sequences = [(row[is_token], int(p)) for row, is_token, p in zip(ids, mask, prompts, strict=True)]
        labelled = [(row, first) for row, first in sequences if len(row) > first]
        # Every process runs equally many forwards, also one that has no token to learn.
        is_empty = not labelled
        row, first = (sequences[0][0][-1:], 1) if prefix is None else sequences[0]
        nothing = ([*row, row[-1]], first)
        made = pack(labelled or [nothing]).to(input_ids.device)
        scored = forward.scored if prefix is None else prefix.scored
        asked: dict[str, Any] = {
            "temperature": self.temperature,
            "with_entropy": with_entropy,
            "with_aux_loss": with_aux_loss,
        }
        with self.accelerator.autocast():
            found = scored(model, made, **asked)
        is_label = attention_mask[:, split:].bool()

        def spread(values: Tensor) -> Tensor:
            into = values.new_zeros(is_label.shape)
            return into + 0.0 * values.sum() if is_empty else into.masked_scatter(is_label, values)

        entropies = None if found.entropy is None else spread(found.entropy)
        return Found(spread(found.log_probs), entropies, found.aux_loss)

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
            apart = (self.plain(*asked).log_probs - self.packed(*asked).log_probs).abs()
        model.train(was_training)
        mask = attention_mask[group, -length:]
        mean = (apart * mask).sum() / mask.sum().clamp(min=1)
        self.refusal = disagreement(self.accelerator, model, mean)
