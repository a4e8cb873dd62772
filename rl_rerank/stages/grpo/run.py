"""Reinforcement learning with group-relative advantages on ranking rewards."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import TrainerState, set_seed

from rl_rerank import data
from rl_rerank.config import Config
from rl_rerank.engines.local import checkpoint, eyes, vllm_environment
from rl_rerank.paradigms.base import Paradigm, check_template
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.prompts.vision import Vision
from rl_rerank.reward.build import reward_terms
from rl_rerank.stages.grpo import dev_engine
from rl_rerank.stages.grpo.policies import ChoicePolicy, ScoresPolicy, TokensPolicy
from rl_rerank.stages.grpo.policy import PolicyConfig
from rl_rerank.stages.grpo.rollouts import VLLMRollout, VLLMRollouts, VLLMServerRollout
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.plugins import Plugins
from rl_rerank.stages.rerank.spec import reported_protocol
from rl_rerank.stages.training import training_examples
from rl_rerank.training.exact.build import choice_objective, num_tasks, scores_objective
from rl_rerank.training.exact.trainer import Objective, PolicyTrainer
from rl_rerank.training.grpo import algorithms
from rl_rerank.training.grpo.dynamic_sampling import Refill
from rl_rerank.training.loop import lengths, lora_targets, precision, tracking
from rl_rerank.training.loop.arguments import peft_config
from rl_rerank.training.loop.batches import prompt_order
from rl_rerank.training.loop.checkpoints import Checkpoints, resumable_checkpoint, writing
from rl_rerank.training.loop.curriculum import FirstStage
from rl_rerank.training.loop.dev import Bounds, DevEvaluation, DevSet, is_patience_over, measure, references
from rl_rerank.training.loop.models import SavesProcessor, keep_checkpoint, save_trained
from rl_rerank.training.loop.pass_rate import AdaptiveQuestions, PassRates, RatesRecord
from rl_rerank.training.loop.preemption import Preemption
from rl_rerank.training.loop.task import Task
from rl_rerank.training.loop.training_log import Records
from rl_rerank.training.loop.training_prompts import Question, Questions
from rl_rerank.training.loop.watch import Watch
from rl_rerank.training.memory import budget as memory_budget
from rl_rerank.types import RankingExample

if TYPE_CHECKING:
    from rl_rerank.training.grpo.trainer import RankingGRPOTrainer

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: GRPOStage) -> None:
    """Train on what the policy samples or may choose, and leave run_dir/<name>/model."""
    output = Path(config.run_dir) / name
    _begin(config, name, stage, output)
    paradigm = build_paradigm(config, config.paradigm)
    terms = reward_terms(config)
    per_query = stage.whole_queries(name, terms, paradigm)
    start = checkpoint.locate(config, stage.model)
    lengths.check_context(config.model, name, paradigm.max_completion_tokens, start)
    lora_targets.check(config.model, name, stage.lora, trains_head=stage.trains_head, folder=start)
    store = data.prepare(config.data, Path(config.run_dir) / "data")
    renderer = checkpoint.renderer(config.model, start)
    tokenizer = checkpoint.load_tokenizer(start, config.model.trust_remote_code)
    examples = training_examples(config, stage.data, store)
    check_template(paradigm, renderer)
    lengths.warn_of_longest(name, examples, [paradigm], renderer)
    rates = None
    policy = stage.policy
    if isinstance(policy, TokensPolicy):
        refill = Refill(policy.prompts_per_batch(stage), policy.dynamic_sampling, policy.zero_variance_std)
        asked = _questions(stage, policy, examples, paradigm, renderer, refill.block, per_query)
        rates = asked.rates if isinstance(asked, AdaptiveQuestions) else None
        task = Task(asked, paradigm, terms, permute_rewards=stage.permute_rewards)
        trainer = _token_trainer(config, stage, policy, output, start, tokenizer, task, refill, renderer.vision)
    else:
        if isinstance(policy, ScoresPolicy):
            objective = scores_objective(stage, policy, examples, paradigm, renderer, terms)
        else:
            assert isinstance(policy, ChoicePolicy)
            objective = choice_objective(stage, policy, examples, paradigm, renderer, terms)
        trainer = _policy_trainer(config, stage, output, start, tokenizer, objective, renderer.vision)
    preemption = Preemption(output, trainer.accelerator)
    trainer.add_callback(preemption)
    trainer.add_callback(Records(output, completions=lambda: trainer.unlogged, most=stage.logged_completions))
    trainer.add_callback(Watch(stage.health, measured=stage.eval_steps, documents=_documents(config, policy)))
    if stage.eval_steps is not None:
        trainer.add_callback(_dev_evaluation(config, name, stage, trainer, store, paradigm, start))
    resumed = resumable_checkpoint(output / "checkpoints", trainer.accelerator)
    if rates is not None:
        if resumed is not None:
            rates.restore(Path(resumed))
        trainer.add_callback(RatesRecord(rates))
    trainer.add_callback(tracking.ConfigRecord(config))
    trainer.add_callback(SavesProcessor(start, config.model.trust_remote_code))
    trainer.add_callback(Checkpoints(trainer.accelerator, preemption, config.checkpoints_read(name)))
    precision.require_masters(trainer)
    ended = _ended(stage, resumed)
    if ended is None:
        with preemption.listening():
            trainer.train(resume_from_checkpoint=resumed)
    state = ended or trainer.state
    best = state.best_global_step if stage.keep == "best" else None
    with writing(trainer.args, state, "the model"):
        if ended is None and best in (None, state.global_step):
            save_trained(trainer, tokenizer, output / "model", stage=stage, model=config.model, start=start)
        elif trainer.accelerator.is_main_process:
            _keep(config, name, stage, state.global_step if best is None else best)


def _begin(config: Config, name: str, stage: GRPOStage, output: Path) -> None:
    """Prepare the process and the folder before anything is loaded."""
    if isinstance(stage.rollout, VLLMServerRollout) and not torch.cuda.is_available():
        raise ValueError(
            f"stages.{name}.rollout=vllm_server sends weights over NCCL, which needs CUDA devices; rollout=vllm works "
            "without"
        )
    tracking.prepare(config, output)
    precision.record(stage, output)
    set_seed(stage.seed)  # adapters are made before a trainer would seed
    if stage.rollout.uses_vllm:
        vllm_environment.apply()


def _keep(config: Config, name: str, stage: GRPOStage, step: int) -> None:
    """Leave the model of an earlier step; step 0 is the start."""
    if step == 0:
        logger.warning("%s: no step was better on the dev queries than the start, so the start is kept", name)
    keep_checkpoint(config, f"{name}@{step}" if step else stage.model, Path(config.run_dir) / name / "model")


def _ended(stage: GRPOStage, checkpoint: str | None) -> TrainerState | None:
    """The state at a checkpoint with which training ended, so that only the model is left to save.

    transformers would train another step from there.
    """
    if checkpoint is None:
        return None
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    stopped = stage.eval_steps is not None and is_patience_over(state, stage.eval_steps, stage.patience)
    return state if stopped or state.global_step >= stage.max_steps else None


def _documents(config: Config, policy: PolicyConfig) -> int:
    """The most documents of a list, over which the KL of an order adds up; 1 where the policy draws none."""
    return (policy.list_size or config.data.depth) if isinstance(policy, ScoresPolicy) else 1


def _token_trainer(
    config: Config,
    stage: GRPOStage,
    policy: TokensPolicy,
    output: Path,
    start: Path,
    tokenizer: Any,
    task: Task,
    refill: Refill,
    vision: Vision | None,
) -> RankingGRPOTrainer:
    # Other policies need not wait for trl's trainer.
    from rl_rerank.stages.grpo.load_teacher import load_teacher
    from rl_rerank.training.grpo.trainer import RankingGRPOTrainer

    # Before the arguments, which let ZeRO-3 shard every model that is built, also the one that memory is counted on.
    budget = memory_budget.tokens(stage, output.name, Plugins(config), start)
    arguments = policy.arguments(config, stage, output)
    model = precision.load(start, config.model, stage, arguments, vision)
    model.set_attn_implementation(policy.attention)
    asked, rollout = task.questions, stage.rollout
    order = prompt_order(policy.prompts_per_batch(stage), policy.updates_per_batch, arguments.world_size)
    vllm_arguments = rollout.args if isinstance(rollout, VLLMRollout) else {}
    if stage.eval_steps is not None and dev_engine.kind(output.name, stage, config, task.paradigm) == "vllm":
        vllm_arguments = {**dev_engine.borrowed_args(output.name, config, task.paradigm), **vllm_arguments}
    trainer = RankingGRPOTrainer(
        task=task,
        model=model,
        args=arguments,
        shared_prefix=policy.shared_prefix,
        leave_one_out=algorithms.leaves_one_out(policy),
        micro_batch_tokens=budget,
        refill=refill if policy.dynamic_sampling else None,
        observe=asked.rates.observe if isinstance(asked, AdaptiveQuestions) else None,
        max_logprob_gap=rollout.max_logprob_gap if isinstance(rollout, VLLMRollouts) else math.inf,
        teacher=load_teacher(config, output.name, policy, arguments, tokenizer),
        rollout_args={
            "dtype": "bfloat16" if precision.uses_bf16(stage, output) else config.model.dtype,
            **vllm_arguments,
        },
        train_dataset=Dataset.from_dict(
            {"prompt": [str(first + place) for first in range(0, len(asked), refill.block) for place in order]}
        ),
        processing_class=tokenizer,
        peft_config=peft_config(stage.lora),
    )
    if trainer.ref_model is not None:  # loaded by trl
        eyes.install(trainer.accelerator.unwrap_model(trainer.ref_model), vision)
    if policy.shared_prefix and trainer.log_probs.refusal:
        logger.warning("prompts are computed once a completion, not once a group: %s", trainer.log_probs.refusal)
    return trainer


def _policy_trainer(
    config: Config,
    stage: GRPOStage,
    output: Path,
    start: Path,
    tokenizer: Any,
    objective: Objective,
    vision: Vision | None,
) -> PolicyTrainer:
    budget = memory_budget.tokens(stage, output.name, Plugins(config), start)  # before the arguments too
    arguments = stage.arguments(config, output)  # before models are read, which ZeRO-3 shards as it says
    model = precision.load(start, config.model, stage, arguments, vision)
    reference = None
    if (adapter := peft_config(stage.lora)) is not None:
        model = get_peft_model(model, adapter)
    elif stage.beta:
        reference = precision.load(start, config.model, stage, arguments, vision)
    return PolicyTrainer(
        objective=objective,
        model=model,
        pad_id=tokenizer.pad_token_id,
        micro_batch_tokens=budget,
        reference=reference,
        args=arguments,
        train_dataset=Dataset.from_dict({"index": list(range(num_tasks(stage)))}),
        processing_class=tokenizer,
    )


def _questions(
    stage: GRPOStage,
    policy: TokensPolicy,
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    block: int,
    per_query: int | None,
) -> Sequence[Question]:
    """`block` questions for each batch of completions, in the order of the stage's curriculum."""
    steps, curriculum = -(-stage.max_steps // policy.steps_per_batch), stage.curriculum
    if curriculum is not None and curriculum.kind == "pass_rate":
        return AdaptiveQuestions(
            examples,
            paradigm,
            renderer,
            PassRates(curriculum.pass_reward),
            steps=steps,
            block=block,
            seed=stage.seed,
            per_query=per_query,
            long_documents=stage.long_documents,
        )
    return Questions(
        examples,
        paradigm,
        renderer,
        count=steps * block,
        seed=stage.seed,
        per_query=per_query,
        curriculum=None if curriculum is None else FirstStage(curriculum, examples),
        step_size=block,
        long_documents=stage.long_documents,
    )


def _dev_evaluation(
    config: Config,
    name: str,
    stage: GRPOStage,
    trainer: RankingGRPOTrainer | PolicyTrainer,
    store: data.Store,
    paradigm: Paradigm,
    start: Path,
) -> DevEvaluation:
    dev_queries = store.examples("dev") if "dev" in store.splits else ()
    examples = list(islice((example for example in dev_queries if example.qrels), stage.eval_queries))
    if not examples:
        raise ValueError(
            f"stages.{name}.eval_steps={stage.eval_steps} ranks judged dev queries, and the data have none"
        )
    renderer = checkpoint.renderer(config.model, start)
    judged = {example.qid: example.qrels for example in examples}
    protocol, engine = reported_protocol(config, name), dev_engine.kind(name, stage, config, paradigm)
    dev = DevSet(examples, judged, paradigm, renderer, config.engine.batch_tokens, protocol, engine)
    assert stage.eval_steps is not None
    if stage.rollout.uses_vllm:
        logger.info("%s", dev_engine.describe(name, stage, config, paradigm))
    return DevEvaluation(
        Path(config.run_dir) / name,
        lambda: measure(trainer, dev),
        trainer.log_once,
        every=stage.eval_steps,
        bounds=Bounds(malformed=stage.max_malformed, ties=stage.max_ties),
        constants=references(dev),
        engine=engine,
        patience=stage.patience,
    )
