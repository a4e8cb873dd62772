"""Baidu's five grades as anchors of pointwise scores, through a step of GRPO."""

import pytest
import torch
from datasets import Dataset
from support.grpo_trainer import ARGUMENTS
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.reward.base import Term
from rl_rerank.training.grpo.trainer import RankingGRPOTrainer, Task
from rl_rerank.training.loop.training_prompts import Questions
from rl_rerank.types import Candidate, RankingExample
from rl_rerank_rewards.anchor_band import AnchorBand

pytestmark = pytest.mark.slow

SCORES = ("0", "5", "8", "?")
LOSSES = {
    # max((s/10 - anchor)^2 - .01, 0) with the anchors .1, .3, .5, .7, .9 of the grades 0 to 4
    0: (0.0, 0.15, 0.48, 1.0),
    1: (0.08, 0.03, 0.24, 1.0),
    2: (0.24, 0.0, 0.08, 1.0),
    3: (0.48, 0.03, 0.0, 1.0),
    4: (0.80, 0.15, 0.0, 1.0),
}


def test_scores_are_paid_by_their_distance_from_the_grades_anchor(tiny_model_dir, chatml_tokenizer, tmp_path):
    candidates = tuple(Candidate(f"d{grade}", f"document {grade}") for grade in range(5))
    example = RankingExample("q", "query", candidates, {f"d{grade}": grade for grade in range(5)})
    paradigm = PointwiseGraded(documents=5)
    asked = Questions(
        [example], paradigm, Renderer(chatml_tokenizer, max_prompt_tokens=200), count=5, seed=1, per_query=5
    )
    run = RankingGRPOTrainer(
        task=Task(asked, paradigm, [Term("anchor_band", AnchorBand())]),
        model=AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=20,
            num_generations=4,
            max_completion_length=4,
            max_steps=1,
            **ARGUMENTS,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(5)]}),
        processing_class=chatml_tokenizer,
    )
    answers = [[*chatml_tokenizer(score)["input_ids"], run.eos_token_ids[0]] for score in SCORES]
    run._generate_single_turn = lambda prompt_ids, *_, **__: (
        [answers[i % 4] for i in range(len(prompt_ids))],
        None,
    )
    run.train()
    assert len(run.completions) == 20
    for row, score in zip(run.completions, SCORES * 5, strict=True):
        assert row["completion"] == score
        grade = example.qrels[row["docids"][0]]
        assert row["rewards"] == {"anchor_band": pytest.approx(-LOSSES[grade][SCORES.index(score)])}
        # The mean of the group's four is the baseline.
        mean = -sum(LOSSES[grade]) / 4
        assert (row["advantage"] > 0) == (row["reward"] > mean)
