"""The one subclass of trl's GRPOTrainer, for trl 1.16.

It replaces what ranking needs to be different and leaves the algorithm to trl: prompts arrive as token ids made by
`rendering`, each prompt is computed once for its group, groups stay together, and rewards see parsed rankings. What it
puts in place lies in modules of its own; here is only how they hang on trl. A test compares the overridden methods of
the installed trl with those that this file was written against.
"""

# trl and transformers declare most of what this file reads from them as optional, or not at all.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOperatorIssue=false, reportOptionalOperand=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from trl.models.utils import disable_gradient_checkpointing, unwrap_model_for_generation
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from rl_rerank.reward import total
from rl_rerank.training import advantages, on_policy, prefix, scoring, shared_attention, vllm_rollout
from rl_rerank.training.log_probs import LogProbs
from rl_rerank.training.questions import Question
from rl_rerank.training.sampling import sample_groups
from rl_rerank.training.skipping import Skipping
from rl_rerank.training.task import Task
from rl_rerank.types import Status

OVERRIDES = (
    "_tokenize_prompts",
    "_generate_single_turn",
    "_get_per_token_logps_and_entropies",
    "_compute_loss",
    "_prepare_inputs",
    "_calculate_rewards",
    "_generate_and_score_completions",
)
"""The methods of trl.GRPOTrainer that `RankingGRPOTrainer` replaces or wraps."""


class RankingGRPOTrainer(GRPOTrainer):
    """GRPO on ranking questions.

    The dataset's only column, `prompt`, holds the index of a question as text.

    Attributes:
        completions: rows for the completions table of the last generation batch of all processes.
    """

    def __init__(
        self,
        *,
        task: Task,
        args: GRPOConfig,
        shared_prefix: bool = True,
        leave_one_out: bool = False,
        max_logprob_gap: float = 0.1,
        rollout_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            leave_one_out: a completion's baseline is the mean of the others in its group, without itself.
            max_logprob_gap: the alarm threshold of `on_policy.require`.
            rollout_args: arguments of a colocated vllm.LLM.
        """
        reward_funcs: Any = [_Named(term.name) for term in task.terms]
        with vllm_rollout.installed(rollout_args or {}) if args.use_vllm else nullcontext():
            super().__init__(args=args, reward_funcs=reward_funcs, **kwargs)
        if self.use_vllm:
            # An engine knows the end tokens of the model's folder; these are the ones that rollouts are read by.
            self.vllm_generation.generation_kwargs["stop_token_ids"] = list(self.eos_token_ids)
        self.task = task
        self.leave_one_out = leave_one_out
        self.max_logprob_gap = max_logprob_gap
        self.completions: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []
        self._skipping: Skipping | None = None
        unwrapped = self.accelerator.unwrap_model(self.model)
        self.log_probs = LogProbs(
            super()._get_per_token_logps_and_entropies,
            self.accelerator,
            num_generations=self.num_generations,
            temperature=self.temperature,
            refusal=prefix.refusal(unwrapped) if shared_prefix else "the configuration says so",
        )
        if self.log_probs.refusal is None:
            shared_attention.install(unwrapped)
            if self.ref_model is not None:
                shared_attention.install(self.accelerator.unwrap_model(self.ref_model))

    def log_once(self, name: str, value: float) -> None:
        """Add a value to the row of metrics that is logged next."""
        self._metrics["train"][name].append(value)

    def _question(self, key: str) -> Question:
        return self.task.questions[int(key)]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self._question(key).token_ids) for key in prompts], None, {}

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[list[list[int]], Any]:
        if self.use_vllm:
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images=has_tool_images
            )
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            generation_kwargs=self.generation_kwargs,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            was_training = model.training
            model.eval()
            with disable_gradient_checkpointing(model, self.args.gradient_checkpointing_kwargs):
                completions = sample_groups(
                    model,
                    prompt_ids[::num_generations],
                    num_generations=num_generations,
                    generation_config=self.generation_config,
                    pad_id=self._tokenizer.pad_token_id,
                    end_ids=self.eos_token_ids,
                )
            model.train(was_training)
        return completions, None

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        self._skipping = self._to_skip(inputs)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._skipping = None

    def _to_skip(self, inputs: Mapping[str, Tensor]) -> Skipping | None:
        """The groups of a micro-batch that teach nothing, where the loss of a group without advantages is exactly 0."""
        has_other_terms = self.beta != 0 or self._entropy_bonus_enabled or self.aux_loss_enabled
        if has_other_terms or self.top_entropy_quantile < 1:
            return None
        teaches = (inputs["advantages"].view(-1, self.num_generations) != 0).any(1)  # [N]
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["skipped_groups"].append(1 - self.accelerator.gather(teaches.float()).mean().item())
        if bool(teaches.all()):
            return None
        rows = teaches.repeat_interleave(self.num_generations)
        old = inputs.get("old_per_token_logps")
        return Skipping(rows, inputs["completion_mask"], old, self.num_generations)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if compute_aux_loss or any(value is not None for value in multimodal.values()):
            asked = (input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss)
            return super()._get_per_token_logps_and_entropies(model, *asked, **multimodal)

        def forward(ids: Tensor, mask: Tensor, length: int) -> tuple[Tensor, Tensor | None]:
            return self.log_probs(model, ids, mask, length, batch_size, compute_entropy)

        asked = (input_ids, attention_mask, logits_to_keep)
        found = forward(*asked) if self._skipping is None else self._skipping(forward, *asked)
        return *found, None

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        # As trl's, less the shuffling of rows, which would tear groups apart. A generation batch is one optimizer
        # step's, so the order of its rows changes nothing.
        if not self.model.training:
            return self._generate_and_score_completions(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), steps)
        return self._buffered_inputs[self._step % steps]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.use_vllm:
            self._check_on_policy(output)
        output["advantages"] = self._advantages(output["advantages"])
        for row, advantage in zip(self._rows, output["advantages"].tolist(), strict=True):
            row["advantage"] = advantage
        self.completions = gather_object(self._rows)
        return output

    def _advantages(self, found: Tensor) -> Tensor:
        """[B] advantages of trl with the configured baseline, and without what is only rounding.

        Where rewards are normalised one by one the batch's mean is subtracted, too, and a group of one worth keeps
        what that leaves.
        """
        if self.leave_one_out:
            found = advantages.leave_one_out(found, self.num_generations)
        if self.multi_objective_aggregation == "normalize_then_sum":
            return found
        rewards = torch.tensor([row["reward"] for row in self._rows])
        return advantages.without_rounding(found, rewards, self.num_generations)

    def _check_on_policy(self, output: Mapping[str, Tensor]) -> None:
        """Log how far vLLM and the trainer are apart, and refuse to train where they are too far.

        Raises:
            ValueError: on every process, if the mean over all sampled tokens is above `max_logprob_gap`.
        """
        here = on_policy.sums(
            output["old_per_token_logps"],
            output["sampling_per_token_logps"],
            output["completion_mask"],
            output["importance_sampling_ratio"],
        )
        gap, masked = on_policy.shares(self.accelerator.gather(here.unsqueeze(0)).sum(0))
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["rollout/logprob_gap"].append(gap)
        self._metrics[mode]["rollout/masked_sequences"].append(masked)
        on_policy.require(gap, self.max_logprob_gap, step=self.state.global_step + 1)

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[str],
        completions: list[str],
        completion_ids_list: list[list[int]],
    ) -> Tensor:
        rollouts = [
            self.task.rollout(int(key), ids, self._tokenizer, self.eos_token_ids)
            for key, ids in zip(prompts, completion_ids_list, strict=True)
        ]
        terms = self.task.terms
        scores = scoring.score_rows(
            terms,
            self.task.questions,
            [(int(key), r.completion, r.judgment) for key, r in zip(prompts, rollouts, strict=True)],
            gather_object,
            num_generations=self.num_generations,
        )
        values = [{name: found.value for name, found in row.items()} for row in scores.values]
        self._rows = [
            {
                "step": self.state.global_step + 1,
                "qid": rollout.prompt.qid,
                "docids": list(rollout.prompt.docids),
                "completion": rollout.completion.text,
                "status": rollout.judgment.status.value,
                "rewards": value,
                "reward": total(terms, value),
            }
            for rollout, value in zip(rollouts, values, strict=True)
        ]
        well_formed = [float(rollout.judgment.status is Status.ok) for rollout in rollouts]
        self._log_metric("well_formed", sum(well_formed) / len(well_formed))
        rewards = gather(
            torch.tensor([[v[term.name] for term in terms] for v in values], device=self.accelerator.device)
        )
        assert isinstance(rewards, Tensor)
        self._log_terms(scores, rewards)
        if not self.task.permute_rewards:
            return rewards
        return advantages.permuted(rewards, self.num_generations, f"{self.args.seed}:{self.state.global_step}")

    def _log_terms(self, scores: scoring.Scores, rewards: Tensor) -> None:
        """Log what trl does not: range, time, groups in which a term is constant, and the parts of compositions.

        Args:
            rewards: [B, terms], of all processes.
        """
        mode = "train" if self.model.training else "eval"
        for column, term in enumerate(self.task.terms):
            figures = scoring.term_metrics(term.name, rewards[:, column], self.num_generations)
            for key, value in figures.items():
                self._metrics[mode][key].append(value)
            self._log_metric(f"rewards/{term.name}/seconds", scores.seconds[term.name])
        for row in scores.values:
            for name, found in row.items():
                for part, value in found.parts.items():
                    self._log_metric(f"rewards/{name}/{part}/mean", value)


class _Named:
    """Gives a term its name in trl's logs; the values come from `_calculate_rewards`."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, **_: Any) -> list[float]:
        raise AssertionError("rewards are computed by RankingGRPOTrainer._calculate_rewards")
