"""Reinforcement learning with group-relative advantages on ranking rewards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset

from rl_rerank import batches, data, lengths
from rl_rerank.config import Config, GRPOStage
from rl_rerank.engines import checkpoint, vllm_environment
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.rerank import build_paradigm
from rl_rerank.terms import reward_terms
from rl_rerank.training import algorithms, tracking
from rl_rerank.training.arguments import grpo_arguments, peft_config
from rl_rerank.training.curriculum import FirstStage
from rl_rerank.training.dev import DevEvaluation, DevSet, measure
from rl_rerank.training.grpo import RankingGRPOTrainer
from rl_rerank.training.models import keep_checkpoint, save_trained
from rl_rerank.training.pass_rate import AdaptiveQuestions, PassRates, RatesRecord
from rl_rerank.training.questions import Question, questions
from rl_rerank.training.records import Records, resumable_checkpoint
from rl_rerank.training.refill import Refill
from rl_rerank.training.task import Task

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: GRPOStage) -> None:
    """Train on sampled completions and leave run_dir/<name>/model."""
    output = Path(config.run_dir) / name
    if stage.rollout == "vllm_server" and not torch.cuda.is_available():
        raise ValueError(
            f"stages.{name}.rollout=vllm_server sends weights over NCCL, which needs CUDA devices; rollout=vllm works "
            "without"
        )
    tracking.prepare(config, output)
    if stage.rollout != "hf":
        vllm_environment.apply()
    paradigm = build_paradigm(config, config.paradigm)
    terms = reward_terms(config)
    per_query = batches.whole_queries(name, stage, terms, paradigm)
    arguments = grpo_arguments(config, stage, output, max_completion_tokens=paradigm.max_completion_tokens)
    start = checkpoint.locate(config, stage.model)
    lengths.check_context(config, name, stage, start)
    store = data.prepare(config.data, Path(config.run_dir) / "data")
    refill = Refill(stage.prompts_per_step, stage.refill_rounds, stage.refill_min_std)
    asked = _questions(config, stage, store, paradigm, start, refill.block, per_query)
    rates = asked.rates if isinstance(asked, AdaptiveQuestions) else None
    tokenizer = checkpoint.load_tokenizer(start, config.model.trust_remote_code)
    model = checkpoint.load_model(start, config.model.dtype, config.model.trust_remote_code)
    model.set_attn_implementation(stage.attention)
    trainer = RankingGRPOTrainer(
        task=Task(asked, paradigm, terms, permute_rewards=stage.permute_rewards),
        model=model,
        args=arguments,
        shared_prefix=stage.shared_prefix,
        leave_one_out=algorithms.leaves_one_out(stage),
        micro_batch_tokens=stage.micro_batch_tokens,
        refill=refill if stage.refill_rounds else None,
        observe=rates.observe if rates is not None else None,
        max_logprob_gap=stage.max_logprob_gap,
        rollout_args={"dtype": "bfloat16" if stage.bf16 else config.model.dtype, **stage.rollout_args},
        train_dataset=Dataset.from_dict(
            {"prompt": [str(index) for index in range(len(asked)) if refill.is_asked(index)]}
        ),
        processing_class=tokenizer,
        peft_config=peft_config(stage.lora),
    )
    if stage.shared_prefix and trainer.log_probs.refusal:
        logger.warning("prompts are computed once a completion, not once a group: %s", trainer.log_probs.refusal)
    if stage.eval_steps is not None:
        trainer.add_callback(_dev_evaluation(config, name, stage, trainer, store, paradigm, start))
    resumed = resumable_checkpoint(output / "checkpoints", trainer.accelerator)
    if rates is not None:
        if resumed is not None:
            rates.restore(Path(resumed))
        trainer.add_callback(RatesRecord(rates))
    trainer.add_callback(Records(output, trainer.accelerator, completions=lambda: trainer.completions))
    trainer.add_callback(tracking.ConfigRecord(config))
    trainer.train(resume_from_checkpoint=resumed)
    best = trainer.state.best_global_step if stage.keep == "best" else None
    if best is None or best == trainer.state.global_step:
        save_trained(trainer, tokenizer, output / "model", stage=stage, model=config.model, start=start)
    elif trainer.accelerator.is_main_process:
        keep_checkpoint(config, f"{name}@{best}", output / "model")


def _questions(
    config: Config,
    stage: GRPOStage,
    store: data.Store,
    paradigm: Paradigm,
    start: Path,
    block: int,
    per_query: int | None,
) -> Sequence[Question]:
    """`block` questions for each batch of completions, in the order of the stage's curriculum."""
    examples, renderer = list(store.examples("train")), checkpoint.renderer(config.model, start)
    steps, curriculum = -(-stage.max_steps // stage.num_iterations), stage.curriculum
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
        )
    return questions(
        examples,
        paradigm,
        renderer,
        count=steps * block,
        seed=stage.seed,
        per_query=per_query,
        curriculum=None if curriculum is None else FirstStage(curriculum, examples),
        step_size=block,
    )


def _dev_evaluation(
    config: Config,
    name: str,
    stage: GRPOStage,
    trainer: RankingGRPOTrainer,
    store: data.Store,
    paradigm: Paradigm,
    start: Path,
) -> DevEvaluation:
    judged = store.qrels("dev") if "dev" in store.splits else {}
    examples = [e for e in store.examples("dev") if e.qid in judged][: stage.eval_queries] if judged else []
    if not examples:
        raise ValueError(
            f"stages.{name}.eval_steps={stage.eval_steps} ranks judged dev queries, and the data have none"
        )
    renderer = checkpoint.renderer(config.model, start)
    dev = DevSet(examples, judged, paradigm, renderer, config.engine.batch_tokens)
    assert stage.eval_steps is not None
    return DevEvaluation(
        Path(config.run_dir) / name,
        lambda: measure(trainer, dev),
        trainer.log_once,
        every=stage.eval_steps,
        patience=stage.patience,
    )
