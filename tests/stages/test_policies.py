"""Stages that train scores and choices: as one experiment, with dev queries, and what the plan refuses."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rl_rerank.config import GRPOStage, SFTStage
from rl_rerank.experiment import validate
from rl_rerank.experiment.compose import compose
from rl_rerank.io.files import read_jsonl
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.sft import run as sft_stage

PRORANK = """\
# @package _global_
paradigm: pointwise
paradigms: {pointwise: {params: {positive: "1", negative: "0"}}}
stages:
  warmup: {kind: grpo, policy: choice, prompts_per_step: 4, micro_batch: 2, max_steps: 2, learning_rate: 1e-3}
  scores: {kind: sft, model: warmup, loss: ranknet, batch_size: 4, micro_batch: 2, max_steps: 2, learning_rate: 1e-3}
"""
ON_SCORES = """\
# @package _global_
paradigm: first_token
paradigms: {first_token: {params: {window: 3}}}
stages:
  scores:
    {kind: grpo, policy: scores, prompts_per_step: 4, micro_batch: 2, max_steps: 3, learning_rate: 1e-3, beta: 0.01,
     entropy: 0.01, eval_steps: 1, save_steps: 10}
"""
TABLE = {
    "step",
    "qid",
    "query",
    "docids",
    "completion",
    "status",
    "ranking",
    "nDCG@10",
    "rewards",
    "reward",
    "advantage",
}
"""What is kept of a completion."""
MINE = """\
class Mine:
    def __call__(self, example, rollout):
        return float(len(rollout.completion.text.split(" > ")) == len(rollout.prompt.docids))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    rows = [
        {
            "qid": f"q{i}",
            "query": f"query {i}",
            "candidates": [{"docid": f"{i}{c}", "text": f"the text {c} {i}"} for c in "abc"],
            "qrels": {f"{i}{'abc'[i % 3]}": 1},
            "split": "dev" if i < 3 else "train",
        }
        for i in range(12)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/prorank.yaml").write_text(PRORANK)
    (tmp_path / "conf/experiment/on_scores.yaml").write_text(ON_SCORES)
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def composed(experiment, model_dir, *overrides):
    config = compose(
        "run",
        [
            *(f"experiment={experiment}", "data=jsonl", "data.path=data.jsonl", "run_dir=run", "report_to=[]"),
            *(f"model.path={model_dir}", "model.max_prompt_tokens=400", *overrides),
        ],
    )
    validate.validate(config)
    return config


def test_proranks_two_stages_are_one_experiment(folder, tiny_model_dir):
    config = composed("prorank", tiny_model_dir, "reward=[prorank]")
    warmup, scores = config.stages["warmup"], config.stages["scores"]
    assert isinstance(warmup, GRPOStage) and isinstance(scores, SFTStage)
    grpo_stage.run(config, "warmup", warmup)
    sft_stage.run(config, "scores", scores)
    rows = read_jsonl(folder / "run/warmup/metrics.jsonl")
    # form is worth 1, and the right answer of two another 1: about 1.5 where the model does not know yet
    assert 1 < rows[0]["reward"] < 2 and rows[0]["reward"] == pytest.approx(rows[0]["reward/prorank"])
    assert 0 < rows[0]["entropy"] <= 0.6932
    answers = read_jsonl(folder / "run/warmup/completions.jsonl")
    assert len(answers) == 8 and all(row.keys() == TABLE for row in answers)
    # one document each, so there is no order to measure
    assert {(row["completion"], row["status"], row["ranking"]) for row in answers} <= {
        ("0", "ok", None),
        ("1", "ok", None),
    }
    weights = [
        load_file(f"{place}/model.safetensors") for place in (tiny_model_dir, "run/warmup/model", "run/scores/model")
    ]
    for before, after in pairwise(weights):
        assert max((before[name] - after[name]).abs().max() for name in before) > 1e-4


@pytest.mark.parametrize("reward", ["[ndcg]", "[multiview]", "[mine.py:Mine]"])
def test_any_reward_trains_scores_which_are_measured_on_dev_queries(folder, tiny_model_dir, reward):
    config = composed("on_scores", tiny_model_dir, f"reward={reward}")
    stage = config.stages["scores"]
    assert isinstance(stage, GRPOStage)
    grpo_stage.run(config, "scores", stage)
    rows = read_jsonl(folder / "run/scores/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(0 <= row["dev/nDCG@10"] <= 1 and row["dev/malformed"] == 0 for row in rows)
    assert 0 <= rows[0]["dev/before"] <= 1 and rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert (folder / "run/scores/best.json").is_file()
    answers = read_jsonl(folder / "run/scores/completions.jsonl")
    assert len(answers) == 12 and all(row.keys() == TABLE for row in answers)
    assert all(sorted(row["ranking"]) == sorted(row["docids"]) and 0 < row["nDCG@10"] <= 1 for row in answers)
    if "mine" in reward:
        assert {row["reward"] for row in rows} == {1.0}
    start, end = (load_file(f"{place}/model.safetensors") for place in (tiny_model_dir, "run/scores/model"))
    assert any(not torch.equal(start[name], end[name]) for name in start)


def test_the_best_step_of_a_policy_is_kept(folder, tiny_model_dir, monkeypatch):
    given = iter([0.1, 0.5, 0.6, 0.4])  # before training, then of every step: step 2 is the best
    monkeypatch.setattr(grpo_stage, "measure", lambda trainer, asked: (next(given), 0.0))
    config = composed("on_scores", tiny_model_dir, "reward=[ndcg]", "stages.scores.keep=best")
    stage = config.stages["scores"]
    assert isinstance(stage, GRPOStage)
    grpo_stage.run(config, "scores", stage)
    kept = load_file("run/scores/model/model.safetensors")
    best, last = (load_file(f"run/scores/checkpoints/checkpoint-{step}/model.safetensors") for step in (2, 3))
    assert all(torch.equal(kept[name], best[name]) for name in kept)
    assert any(not torch.equal(kept[name], last[name]) for name in kept)


@pytest.mark.parametrize(
    ("experiment", "overrides", "fragment"),
    [
        ("on_scores", ["reward=[]"], "stages.scores has no reward to train on"),
        ("on_scores", ["paradigm=listwise"], "policy=scores needs a paradigm that scores a list in one forward"),
        ("prorank", ["paradigm=listwise"], "stages.warmup.policy=choice needs a paradigm whose prompts have but few"),
        ("prorank", ["paradigm=groupwise", "stages.warmup.policy=tokens", "stages.warmup.micro_batch=8"],
         "stages.scores.loss=ranknet needs a paradigm that scores a list in one forward"),
        ("prorank", ["reward=[pooled_reciprocal_rank]"],
         "compares all completions of a query, and policy=choice weighs"),
        ("on_scores", ["stages.scores.algorithm=dapo"], "algorithm=dapo means nothing to policy=scores; leave it out"),
        ("on_scores", ["stages.scores.num_iterations=2"], "num_iterations=2 means nothing to policy=scores"),
        ("prorank", ["stages.warmup.num_generations=4"], "num_generations=4 means nothing to policy=choice"),
        ("prorank", ["stages.warmup.policy=tokens", "stages.warmup.micro_batch=8", "stages.warmup.loss=ranknet"],
         "loss=ranknet means nothing to policy=tokens"),
        ("on_scores", ["stages.scores.policy=score"], "policy must be one of tokens, scores, choice; got 'score'"),
        ("on_scores", ["stages.scores.scale_rewards=batch"], "scale_rewards must be group or none with policy=scores"),
        ("on_scores", ["stages.scores.estimator=moves", "reward=[rbo]"], "estimator=moves needs rewards that are sums"),
        ("on_scores", ["stages.scores.estimator=moves", "stages.scores.permute_rewards=true"], "no groups of rewards"),
        ("on_scores", ["stages.scores.loss=ranknett"], "grpo stage: loss must be one of softmax, listnet,"),
        ("on_scores", ["stages.scores.loss_weight=2"], "loss_params and loss_weight need a loss"),
        ("on_scores", ["stages.scores.list_size=1"], "list_size must be at least 2, or null for all; got 1"),
        ("on_scores", ["stages.scores.top_k=0"], "top_k must be at least 1, or null for all places; got 0"),
        ("on_scores", ["stages.scores.entropy=-1"], "beta and entropy must be 0 or more"),
        ("prorank", ["stages.scores.loss_params={k: 1}"], "there is no setting 'sft stage: loss_params.k'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_anything_runs(
    folder, tiny_model_dir, experiment, overrides, fragment
):
    with pytest.raises(ValueError) as caught:
        composed(experiment, tiny_model_dir, "reward=[ndcg]", *overrides)
    assert fragment in str(caught.value)


def test_the_plan_shows_the_arithmetic(folder, tiny_model_dir):
    config = composed("on_scores", tiny_model_dir, "reward=[ndcg]", "stages.scores.estimator=moves")
    # 4 lists a step, 2 a forward; a list is one prompt of 400 tokens
    assert validate.describe(config, ["scores"]) == [
        "scores  grpo on scores from model: 3 steps x 4 = 12 lists, 8 orders of each",
        "  1 process: 2 micro-batches of 2 lists a step",
        "  at most 1,600 tokens a process a step = 2 x (2 prompts x 400), 3 documents a list",
    ]
    config = composed("on_scores", tiny_model_dir, "reward=[ndcg]", "paradigm=pointwise", "data.depth=5")
    assert validate.describe(config, ["scores"])[-1].endswith("= 2 x (10 prompts x 400), 5 documents a list")
    config = composed("prorank", tiny_model_dir, "reward=[prorank]")
    assert validate.describe(config, ["warmup"]) == [
        "warmup  grpo on choice from model: 2 steps x 4 = 8 prompts",
        "  1 process: 2 micro-batches of 2 prompts a step",
        "  at most 1,600 tokens a process a step = 2 x (2 prompts x 400) for each token at which answers part, "
        "which mostly is one",
    ]
