"""A GRPO trainer over a tiny random model, and rewards for it."""

from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig

from rl_rerank.engines.local import checkpoint
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.reward.base import Term
from rl_rerank.training.grpo.distillation import TeacherModel
from rl_rerank.training.grpo.trainer import RankingGRPOTrainer
from rl_rerank.training.loop.task import Task
from rl_rerank.training.loop.training_prompts import Questions
from rl_rerank.types import Candidate, RankingExample
from rl_rerank_rewards.ndcg import NDCG

ARGUMENTS = {
    "shuffle_dataset": False,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
    "remove_unused_columns": False,
}
"""Arguments of GRPOConfig for a short run on the CPU that keeps the order of its prompts and saves nothing."""


def examples():
    return [
        RankingExample(
            f"q{q}",
            f"question number {q}",
            tuple(Candidate(f"q{q}d{d}", f"passage {d} of query {q} " * (d + 1)) for d in range(4)),
            {f"q{q}d{q % 4}": 2, f"q{q}d{(q + 1) % 4}": 1},
        )
        for q in range(6)
    ]


def trainer(
    tiny_model_dir,
    tokenizer,
    tmp_path,
    *,
    shared_prefix=True,
    lora=False,
    leave_one_out=False,
    permute=False,
    num_questions=8,
    rollout_args=None,
    micro_batch_tokens=None,
    refill=None,
    teacher=None,
    teacher_weight=1.0,
    terms=None,
    order=(0,),
    **arguments,
):
    paradigm = Listwise(window=3, stride=1)
    renderer = Renderer(tokenizer, max_prompt_tokens=400)
    asked = Questions(examples(), paradigm, renderer, count=num_questions, seed=1)
    settings = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
        "num_generations": 4,
        "max_completion_length": 6,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "beta": 0.0,
        "loss_type": "dr_grpo",
        "scale_rewards": "group",
        "seed": 3,
        **ARGUMENTS,
    } | arguments
    args = GRPOConfig(**settings)  # before the model, as in the grpo stage: under ZeRO-3 it is then read in shards
    return RankingGRPOTrainer(
        task=Task(asked, paradigm, terms or [Term("ndcg", NDCG()), Term("length", Length())], permute_rewards=permute),
        model=checkpoint.load_model(tiny_model_dir, "float32"),
        args=args,
        shared_prefix=shared_prefix,
        leave_one_out=leave_one_out,
        rollout_args=rollout_args,
        micro_batch_tokens=micro_batch_tokens,
        refill=refill,
        teacher=None if teacher is None else TeacherModel(checkpoint.load_model(teacher, "float32"), teacher_weight),
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in asked_first(len(asked), refill, order)]}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear") if lora else None,
    )


def asked_first(count, refill, order):
    ordered = [first + place for first in range(0, count, len(order)) for place in order]
    return [i for i in ordered if refill is None or i % refill.block < refill.prompts_per_step]


class Length:
    """A reward that random text can vary: the share of letters in the completion."""

    def __call__(self, example, rollout):
        text = rollout.completion.text
        return sum(c.isalpha() for c in text) / max(len(text), 1)


class Uneven:
    """The same for every completion of the queries named, and otherwise the share of letters in it."""

    def __init__(self, *qids):
        self.qids = qids

    def __call__(self, example, rollout):
        return 1.0 if example.qid in self.qids else Length()(example, rollout)
