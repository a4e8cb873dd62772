"""The one subclass of trl's GRPOTrainer, for trl 1.16.

It replaces what ranking needs to be different and leaves the algorithm to trl: prompts arrive as token ids made by
`rendering`, each prompt is computed once for its group, groups stay together, and rewards see parsed rankings. A test
compares the overridden methods of the installed trl with those that this file was written against.
"""

# trl and transformers declare most of what this file reads from them as optional, or not at all.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOperatorIssue=false, reportOptionalOperand=false, reportCallIssue=false

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from trl.models.utils import disable_gradient_checkpointing, unwrap_model_for_generation
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.reward import RewardError, Term, total
from rl_rerank.training import on_policy, prefix, scoring, shared_attention, vllm_rollout
from rl_rerank.training.questions import Question
from rl_rerank.training.reward_workers import Workers
from rl_rerank.training.sampling import sample_groups
from rl_rerank.types import Completion, Rollout, Status

logger = logging.getLogger(__name__)

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
GAP_FLOAT32, GAP_REDUCED = 1e-3, 5e-2
"""How far apart the two ways to log-probabilities may be on the first batch, in nats a token on average."""


@dataclass(frozen=True)
class Task:
    """What is being learned: questions, how their answers are read, and what they are worth."""

    questions: Sequence[Question]
    paradigm: Paradigm
    terms: Sequence[Term]
    permute_rewards: bool = False
    """Train on rewards permuted within groups: a control that must not learn."""


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
        self._workers = {term.name: Workers(term) for term in task.terms if term.workers}
        self._skipping: _Skipping | None = None
        self._is_verified = False
        unwrapped = self.accelerator.unwrap_model(self.model)
        self.prefix_refusal = "the configuration says so" if not shared_prefix else prefix.refusal(unwrapped)
        if self.prefix_refusal is None:
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

    def _to_skip(self, inputs: Mapping[str, Tensor]) -> _Skipping | None:
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
        return _Skipping(rows, inputs["completion_mask"], inputs.get("old_per_token_logps"))

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
            return self._plain(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **multimodal,
            )
        if not self.prefix_refusal and not self._is_verified:
            self._verify(model, input_ids, attention_mask, logits_to_keep)
        log_probs_of = self._plain if self.prefix_refusal else self._shared
        skipping = self._skipping
        if skipping is None:
            return log_probs_of(model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy)
        rows, kept = skipping.teaches, logits_to_keep
        if not bool(rows.any()):
            # Every process has to make as many forwards as the others: one of a token behind a token is next to none.
            rows, kept = torch.arange(self.num_generations, device=input_ids.device), 1
            split = input_ids.size(1) - logits_to_keep
            input_ids, attention_mask = input_ids[:, split - 1 : split + 1], attention_mask[:, split - 1 : split + 1]
        found, entropies, _ = log_probs_of(
            model, input_ids[rows], attention_mask[rows], kept, batch_size, compute_entropy
        )
        return *skipping.filled(found, entropies, logits_to_keep), None

    def _plain(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """trl's own forward, a row for each completion."""
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _shared(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
    ) -> tuple[Tensor, Tensor | None, None]:
        """The same with each prompt computed once for its group."""
        split = input_ids.size(1) - logits_to_keep
        log_probs, entropies = [], []
        for ids, mask in zip(
            input_ids.split(batch_size or input_ids.size(0)),
            attention_mask.split(batch_size or input_ids.size(0)),
            strict=True,
        ):
            with self.accelerator.autocast():
                log_prob, entropy = prefix.shared_log_probs(
                    model,
                    ids[:, :split],
                    mask[:, :split],
                    ids[:, split:],
                    mask[:, split:],
                    num_generations=self.num_generations,
                    temperature=self.temperature,
                    with_entropy=compute_entropy,
                )
            log_probs.append(log_prob)
            entropies.append(entropy)
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None

    def _verify(self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int) -> None:
        """Compare both ways on the first group of every process; where they differ, take the plain one from now on."""
        self._is_verified = True
        group = slice(0, self.num_generations)
        asked = (model, input_ids[group], attention_mask[group], logits_to_keep)
        was_training = model.training
        model.eval()
        with torch.no_grad():
            apart = (self._plain(*asked)[0] - self._shared(*asked)[0]).abs()
        model.train(was_training)
        mask = attention_mask[group, -logits_to_keep:]
        mean = (apart * mask).sum() / mask.sum().clamp(min=1)
        gap = self.accelerator.gather(mean.reshape(1)).max().item()
        is_exact = self.accelerator.mixed_precision == "no" and next(model.parameters()).dtype == torch.float32
        allowed = GAP_FLOAT32 if is_exact else GAP_REDUCED
        if gap <= allowed:
            logger.info("a prompt computed once for its group gives the same log-probabilities (%.1e nats apart)", gap)
        else:
            self.prefix_refusal = (
                f"on the first batch the log-probabilities were {gap:.2g} nats apart from those of separate rows, more "
                f"than {allowed}"
            )
            logger.warning("prompts are computed once a completion, not once a group: %s", self.prefix_refusal)

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

    def _advantages(self, advantages: Tensor) -> Tensor:
        """[B] advantages with the configured baseline, and exactly 0 where a group's completions are worth the same.

        trl divides the rounding of a mean by a standard deviation of about 0, which is noise. Where rewards are
        normalised one by one the batch's mean is subtracted, too, and such a group keeps what that leaves.
        """
        if self.leave_one_out:
            advantages = advantages * self.num_generations / (self.num_generations - 1)
        if self.multi_objective_aggregation == "normalize_then_sum":
            return advantages
        rewards = torch.tensor([row["reward"] for row in self._rows]).view(-1, self.num_generations)
        differ = (rewards.amax(1) > rewards.amin(1)).repeat_interleave(self.num_generations)
        return advantages * differ.to(advantages.device)

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
        rollouts = [self._rollout(key, ids) for key, ids in zip(prompts, completion_ids_list, strict=True)]
        terms = self.task.terms
        scores = self._scores([(int(key), r.completion, r.judgment) for key, r in zip(prompts, rollouts, strict=True)])
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
        return self._permuted(rewards) if self.task.permute_rewards else rewards

    def _scores(self, rows: list[scoring.Row]) -> scoring.Scores:
        """What the terms make of this process's rows.

        Raises:
            RewardError: on every process, if a term fails on one, behind a checkpoint of what is trained so far.
        """
        scores, failures = None, []
        try:
            scores = scoring.score_rows(
                self.task.terms,
                self.task.questions,
                rows,
                gather_object,
                num_generations=self.num_generations,
                workers=self._workers,
            )
        except RewardError as e:
            failures.append(e)
        everywhere = gather_object([str(e) for e in failures])
        if scores is not None and not everywhere:
            return scores
        if self.model.training and self.state.global_step > 0:
            self._save_checkpoint(self.model, trial=None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        raise RewardError(everywhere[0]) from (failures[0] if failures else None)

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
            if term.failed is not None:
                failed = ["failed" in row[term.name].parts for row in scores.values]
                self._log_metric(f"rewards/{term.name}/failed", sum(failed) / len(failed))
        for row in scores.values:
            for name, found in row.items():
                for part, value in found.parts.items():
                    self._log_metric(f"rewards/{name}/{part}/mean", value)

    def _rollout(self, key: str, ids: list[int]) -> Rollout:
        prompt = self._question(key).prompt
        ended = bool(ids) and ids[-1] in self.eos_token_ids
        # Special tokens inside the answer stay visible, so that the parser refuses them as it would at inference.
        text = self._tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False)
        completion = Completion(text, tuple(ids), finish_reason="stop" if ended else "length")
        return Rollout(prompt, completion, self.task.paradigm.parse(prompt, completion, strict=True))

    def _permuted(self, rewards: Tensor) -> Tensor:
        """Rewards [B, terms] in a random order within each group, the same on every process."""
        rng = random.Random(f"{self.args.seed}:{self.state.global_step}")
        order: list[int] = []
        for start in range(0, rewards.size(0), self.num_generations):
            group = list(range(start, start + self.num_generations))
            rng.shuffle(group)
            order += group
        return rewards[torch.tensor(order, device=rewards.device)]


@dataclass(frozen=True)
class _Skipping:
    """What stands in for the rows of a micro-batch that teach nothing: their loss is 0 whatever it is, and finite."""

    teaches: Tensor
    """[B] of bool, whole groups."""
    completion_mask: Tensor
    """[B, C]."""
    old: Tensor | None
    """[B, C] log-probabilities of the policy that sampled, where they are known."""

    def filled(self, found: Tensor, entropies: Tensor | None, length: int) -> tuple[Tensor, Tensor | None]:
        """[B, C] of both, where `found` has the rows that teach, or one token of rows that do not.

        Entropies are only logged: rows that were skipped have the mean of the others.
        """
        rest = found.new_zeros(len(self.teaches), length) if self.old is None else self.old.clone()
        if not bool(self.teaches.any()):
            return rest + 0.0 * found.sum(), None if entropies is None else torch.zeros_like(rest)
        rest[self.teaches] = found
        if entropies is None:
            return rest, None
        mask = self.completion_mask[self.teaches]
        every = torch.full_like(rest, ((entropies * mask).sum() / mask.sum().clamp(min=1)).item())
        every[self.teaches] = entropies
        return rest, every


class _Named:
    """Gives a term its name in trl's logs; the values come from `_calculate_rewards`."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, **_: Any) -> list[float]:
        raise AssertionError("rewards are computed by RankingGRPOTrainer._calculate_rewards")
