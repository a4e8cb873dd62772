"""The one subclass of trl's GRPOTrainer, for trl 1.16.

trl keeps the algorithm. Prompts arrive as token ids made by `rendering`, each prompt is computed once for its group,
groups stay together, and rewards see parsed rankings. This file only wires those parts into trl; each has a module.
A test compares the overridden methods of the installed trl with those that this file was written against.
"""

# trl and transformers declare most of what this file reads from them as optional, or not at all.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOperatorIssue=false, reportOptionalOperand=false, reportCallIssue=false

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig

from rl_rerank.reward.base import RewardError
from rl_rerank.reward.workers import Workers
from rl_rerank.training.grpo import advantages, dynamic_sampling, logprob_drift, micro_batches
from rl_rerank.training.grpo.cycle import Cycle
from rl_rerank.training.grpo.distillation import KEY, Teacher, TeacherModel, joined
from rl_rerank.training.grpo.dynamic_sampling import Group, Refill
from rl_rerank.training.grpo.judging import Judge, Judged, NamedTerm
from rl_rerank.training.grpo.log_probs import Found, LogProbs
from rl_rerank.training.grpo.micro_batches import Part
from rl_rerank.training.grpo.on_policy import OnPolicyCorrection
from rl_rerank.training.grpo.sampling import sample_with
from rl_rerank.training.grpo.signal_mask import Skipping, has_signal
from rl_rerank.training.grpo.timing import Phases, PhaseTimes, is_reference, num_tokens
from rl_rerank.training.grpo.trl_imports import GRPOTrainer
from rl_rerank.training.loop import scoring
from rl_rerank.training.loop.checkpoints import WritesAside
from rl_rerank.training.loop.micro_batches import accumulate
from rl_rerank.training.loop.task import Task

OVERRIDES = (
    "_tokenize_prompts",
    "_generate",
    "_generate_single_turn",
    "_get_per_token_logps_and_entropies",
    "_compute_loss",
    "training_step",
    "_prepare_inputs",
    "_calculate_rewards",
    "_generate_and_score_completions",
)
"""The methods of trl.GRPOTrainer that `RankingGRPOTrainer` replaces or wraps."""


class RankingGRPOTrainer(WritesAside, GRPOTrainer):
    """GRPO on ranking questions.

    The dataset's only column, `prompt`, holds the index of a question as text.

    Attributes:
        completions: rows for the completions table of the last generation batch of all processes.
        unlogged: those of all batches since the last logged step.
    """

    def __init__(
        self,
        *,
        task: Task,
        args: GRPOConfig,
        shared_prefix: bool = True,
        leave_one_out: bool = False,
        micro_batch_tokens: int | None = None,
        refill: Refill | None = None,
        observe: Callable[[list[tuple[str, float]]], None] | None = None,
        max_logprob_gap: float = 0.1,
        rollout_args: Mapping[str, Any] | None = None,
        teacher: TeacherModel | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            leave_one_out: use the mean reward of the other completions of the group as a completion's baseline.
            micro_batch_tokens: token budget of a micro-batch. `args` must then put all rows of a process into one
                micro-batch, which is divided here.
            refill: replaces dead groups; the task's questions are laid out in its blocks.
            observe: receives (qid, reward) of all sampled completions, on every process.
            max_logprob_gap: the threshold of `logprob_drift.require`.
            rollout_args: arguments of a colocated vllm.LLM.
            teacher: its probabilities of the completions' tokens are advantages beside those of the rewards.

        Raises:
            ValueError: if the loss has terms that are means over a micro-batch and micro-batches differ in size.
        """
        reward_funcs: Any = [NamedTerm(term.name) for term in task.terms]
        engine: AbstractContextManager[None] = nullcontext()
        if args.use_vllm:
            from rl_rerank.training.grpo import vllm_rollout  # imports vLLM

            engine = vllm_rollout.installed(rollout_args or {})
        with engine:
            super().__init__(args=args, reward_funcs=reward_funcs, **kwargs)
        if self.use_vllm:
            # An engine knows the end tokens of the model's folder; these are the ones that rollouts are read by.
            self.vllm_generation.generation_kwargs["stop_token_ids"] = list(self.eos_token_ids)
        self._workers = {term.name: Workers(term) for term in task.terms if term.workers}
        self.judge = Judge(task, self._tokenizer, self.eos_token_ids, self._scores, self._begin, self.num_generations)
        self.leave_one_out, self.max_logprob_gap = leave_one_out, max_logprob_gap
        self.refill = refill
        self.observe = observe
        self.completions: list[dict[str, Any]] = []
        self.unlogged: list[dict[str, Any]] = []
        self.phases = Phases()
        self.num_tokens: list[float] = [0.0, 0.0]
        self._judged: list[Judged] = []
        self._groups: list[Group] | None = None
        self._share = 1.0
        self._skipping: Skipping | None = None
        self._inputs: dict[str, Any] = {}
        self._prefix: Any = None
        self.micro_batch_tokens = micro_batch_tokens
        if micro_batch_tokens is not None:
            micro_batches.check_means(self)
        self._install(shared_prefix)
        self.teacher = None if teacher is None else Teacher(self, teacher, shared_prefix)

    def _install(self, shared_prefix: bool) -> None:
        """Put our forward, the correction of vLLM's samples and the timing in their places."""
        self.log_probs = LogProbs.of(self, super()._get_per_token_logps_and_entropies, shared_prefix)
        self.on_policy = OnPolicyCorrection.of(self, self.max_logprob_gap)
        if self.use_vllm:
            generation = self.vllm_generation
            generation.sync_weights = self.phases("sync")(generation.sync_weights)
        self.cycle = Cycle(self)
        self.callback_handler.callbacks[:0] = [PhaseTimes(self), self.cycle]

    @property
    def task(self) -> Task:
        """The task that is learned."""
        return self.judge.task

    @task.setter
    def task(self, task: Task) -> None:
        self.judge.task = task

    def log_once(self, name: str, value: float) -> None:
        """Add a value to the next logged row of metrics."""
        self._metrics["train"][name].append(value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as trl does; then every completion has been logged, once however many steps learn from it."""
        super().log(logs, *args, **kwargs)
        self.unlogged = []

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self.task.questions[int(key)].token_ids) for key in prompts], None, {}

    def _generate(self, prompts: list[str]) -> Any:
        found = super()._generate(prompts)
        if self._groups is None:  # not judged yet: slow rewards overlap the forwards that come first
            self.judge.begin([int(key) for key in prompts], found[1])
        return found

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[list[list[int]], Any]:
        if self._groups is not None:  # sampled already, to see which of them are dead
            completions = [ids for group in self._groups for ids in group.completion_ids]
            if self._groups[0].log_probs is None:
                return completions, None
            return completions, [values for group in self._groups for values in group.log_probs or ()]
        if self.use_vllm:
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images=has_tool_images
            )
        return sample_with(self, prompt_ids[::num_generations], num_generations), None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        if self.micro_batch_tokens is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()  # before the batch is made, as it is for evaluation otherwise
        batch = self._prepare_inputs(inputs)
        _, mask, length = joined(batch)
        parts = self._parts(mask, length, batch["advantages"])
        step, count = self._step, len(mask)

        def backward(part: Part) -> Tensor:
            self._step, self._prefix = step, part.prefix  # the first counts generation batches
            rows = {k: v[part.rows] if v.dim() and len(v) == count else v for k, v in batch.items()}
            # Means over completions, as these losses are, become parts of the mean over the step.
            self._share = len(part.rows) / count if self.loss_type in ("grpo", "dr_grpo") else 1.0
            return super(RankingGRPOTrainer, self).training_step(model, rows, num_items_in_batch)

        return accumulate(self.accelerator, model, parts, backward)

    def _parts(self, mask: Tensor, length: int, found: Tensor | None = None) -> list[Part]:
        """Assign rows to micro-batches by token budget; rows without advantages are skipped if possible.

        Args:
            mask: [B, L], of prompts and completions. length: number of completion columns.
            found: [B] advantages; None where no gradients are computed.
        """
        budget = micro_batches.budget(self, with_gradients=found is not None)
        teaches = found != 0 if found is not None and self._can_skip else None
        return micro_batches.rows(mask, length, self.num_generations, budget, self.accelerator, teaches)

    def forward_parts(self, mask: Tensor, length: int) -> list[Part]:
        """Assign rows to forwards outside of the loss; arguments as those of `_parts`."""
        if self.micro_batch_tokens is not None:
            return self._parts(mask, length)
        return list(map(Part, torch.arange(len(mask), device=mask.device).split(self.args.per_device_train_batch_size)))

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        self._skipping = self._to_skip(inputs)
        self._inputs = dict(inputs)
        try:
            return super()._compute_loss(model, self._inputs) * self._share
        finally:
            self._skipping, self._inputs = None, {}

    @property
    def _can_skip(self) -> bool:
        """Whether the loss of a group whose rewards give no advantages is exactly 0."""
        has_other_terms = self.beta != 0 or self._entropy_bonus_enabled or self.aux_loss_enabled
        return self.teacher is None and not has_other_terms and self.top_entropy_quantile >= 1

    def _to_skip(self, inputs: Mapping[str, Tensor]) -> Skipping | None:
        return Skipping.of(inputs) if self._can_skip else None

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
        if any(value is not None for value in multimodal.values()):
            asked = (input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss)
            return self._complete(super()._get_per_token_logps_and_entropies(model, *asked, **multimodal))

        # A batch size is given outside of the loss.
        parts = None if batch_size is None else self.forward_parts(attention_mask, logits_to_keep)
        prefix, self._prefix = self._prefix, None

        def forward(ids: Tensor, mask: Tensor, length: int) -> Found:
            return self.log_probs(model, ids, mask, length, compute_entropy, compute_aux_loss, parts, prefix)

        asked = (input_ids, attention_mask, logits_to_keep)
        if batch_size is not None:
            reference = self.ref_model and self.accelerator.unwrap_model(self.ref_model)
            unwrapped = self.accelerator.unwrap_model(model)
            with self.phases("ref" if is_reference(unwrapped, reference) else "old"):
                return forward(*asked)
        return self._complete(forward(*asked) if self._skipping is None else self._skipping(forward, *asked))

    def _complete(self, found: Any) -> Any:
        """Complete the inputs of the micro-batch whose log-probabilities `found` begins with, if it is the loss's."""
        if self._inputs and self.on_policy is not None:
            self.on_policy.apply(self._inputs, found[0], self._skipping)
        if self._inputs and self.teacher is not None:
            self.teacher.apply(self._inputs, found[0])
        return found

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if isinstance(generation_batch, dict):  # a part of one that was prepared
            return generation_batch
        if not self.model.training:
            return self._generate_and_score_completions(generation_batch)
        return self.cycle.inputs(generation_batch)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        uncorrected = nullcontext() if self.on_policy is None else self.on_policy.postponed()
        with self.phases("rollout"), uncorrected:
            if self.refill is not None and self.model.training:
                self._groups = dynamic_sampling.groups(self, self.refill, [int(row["prompt"]) for row in inputs])
                inputs = [{"prompt": str(group.question)} for group in self._groups for _ in group.judged]
            try:
                output = super()._generate_and_score_completions(inputs)
            finally:
                self._groups = None
        if self.use_vllm and self.on_policy is None:
            logprob_drift.check(self, logprob_drift.of_batch(output), self.max_logprob_gap)
        output["advantages"] = advantages.shaped(self, output["advantages"], map(self.judge.reward, self._judged))
        if self.teacher is not None:
            output[KEY] = self.teacher.score(output)
        mode = "train" if self.model.training else "eval"
        if self._can_skip:
            skipped = (~has_signal(output["advantages"], self.num_generations)).float()
            self._metrics[mode]["skipped_groups"].append(self.accelerator.gather(skipped).mean().item())
        tokens = num_tokens(output["prompt_mask"], output["completion_mask"], self.num_generations)
        self.num_tokens = (self.accelerator.gather(tokens).view(-1, 2).sum(0) / self.cycle.updates).tolist()
        rows = self.judge.table(self._judged, self.state.global_step + 1)
        rewards = self.judge.take_rewards()
        if self.observe is not None and self.model.training:
            self.observe(gather_object(rewards))
        for row, advantage in zip(rows, output["advantages"].tolist(), strict=True):
            row["advantage"] = advantage
        self.completions = gather_object(rows)
        self.unlogged += self.completions
        return output

    def _begin(self, rows: list[scoring.Row]) -> None:
        scoring.begin(self.task.terms, self.task.questions, rows, self._workers)

    def _scores(self, rows: list[scoring.Row]) -> scoring.Scores:
        """Score this process's rows by all terms.

        Raises:
            RewardError: on every process, if a term fails on one, after saving a checkpoint.
        """
        task = self.task
        try:
            return scoring.score_everywhere(
                task.terms, task.questions, rows, num_generations=self.num_generations, workers=self._workers
            )
        except RewardError:
            if self.model.training and self.state.global_step > 0:
                self.cycle.save_before_batch()
            raise

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[str],
        completions: list[str],
        completion_ids_list: list[list[int]],
    ) -> Tensor:
        with self.phases("reward"):
            if self._groups is None:
                self._judged = self.judge([int(key) for key in prompts], completion_ids_list)
            else:
                self._judged = [row for group in self._groups for row in group.judged]
        for name, value in self.judge.own_metrics(self._judged):
            self._log_metric(name, value)
        rewards = gather(torch.tensor(self.judge.values(self._judged), device=self.accelerator.device))
        assert isinstance(rewards, Tensor)
        mode = "train" if self.model.training else "eval"
        for name, value in self.judge.metrics(rewards).items():
            self._metrics[mode][name].append(value)
        if not self.task.permute_rewards:
            return rewards
        return advantages.permuted(rewards, self.num_generations, f"{self.args.seed}:{self.state.global_step}")
