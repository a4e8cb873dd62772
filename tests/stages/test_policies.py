"""Stages that train scores and choices: as one experiment, with dev queries, and what the plan refuses."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import three_candidates

from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import read_jsonl
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.grpo.policies import ChoicePolicy, ScoresPolicy
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.sft import run as sft_stage
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank.training.loop.dev import DevValues

pytestmark = pytest.mark.slow

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
    {kind: grpo, policy: {kind: scores, entropy: 0.01}, prompts_per_step: 4, micro_batch: 2, max_steps: 3,
     learning_rate: 1e-3, beta: 0.01, eval_steps: 1, save_steps: 10}
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
    three_candidates.write(tmp_path)
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
    Experiment.of(config)
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
    monkeypatch.setattr(grpo_stage, "measure", lambda trainer, asked: DevValues(0.0, next(given), 0.0, 0.0, 0.0))
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
        ("prorank", ["paradigm=listwise"], "stages.warmup.policy=choice needs a paradigm whose prompts have few"),
        ("prorank", ["paradigm=groupwise", "stages.warmup.policy=tokens", "stages.warmup.micro_batch=8"],
         "stages.scores.loss=ranknet needs a paradigm that scores a list in one forward"),
        ("prorank", ["reward=[pooled_reciprocal_rank]"],
         "compares all completions of a query, and policy=choice weights"),
        ("on_scores", ["stages.scores.policy.algorithm=dapo"], "there is no setting 'stages.scores.policy.algorithm'"),
        ("on_scores", ["stages.scores.num_iterations=2"],
         "stages.scores.num_iterations is now stages.scores.policy.num_iterations"),
        ("on_scores", ["stages.scores.curriculum={kind: reciprank}"], "curriculum means nothing to policy=scores"),
        ("on_scores", ["stages.scores.rollout=vllm"], "rollout=vllm means nothing to policy=scores; leave it out"),
        ("on_scores", ["stages.scores.rollout_args={dtype: x}"], "rollout_args is now stages.scores.rollout.args"),
        ("prorank", ["stages.warmup.num_generations=4"], "num_generations=4 means nothing to policy=choice"),
        ("prorank", ["stages.warmup.policy=tokens", "stages.warmup.micro_batch=8", "stages.warmup.policy.loss=ranknet"],
         "there is no setting 'stages.warmup.policy.loss'"),
        ("on_scores", ["stages.scores.policy=score"], "policy.kind must be one of tokens, scores, choice; got 'score'"),
        ("on_scores", ["stages.scores.scale_rewards=batch"], "scale_rewards must be group or none with policy=scores"),
        ("on_scores", ["stages.scores.policy.estimator=moves", "reward=[rbo]"], "estimator=moves needs position-based"),
        ("on_scores", ["stages.scores.policy.estimator=moves", "stages.scores.permute_rewards=true"], "no groups of"),
        ("on_scores", ["stages.scores.policy.loss=ranknett"], "no loss is named 'ranknett'"),
        ("on_scores", ["stages.scores.policy.loss_weight=2"], "loss_params and loss_weight need a loss"),
        ("on_scores", ["stages.scores.policy.list_size=1"], "list_size must be at least 2; got 1"),
        ("on_scores", ["stages.scores.policy.top_k=0"], "top_k must be at least 1; got 0"),
        ("on_scores", ["stages.scores.policy.entropy=-1"], "entropy must be at least 0; got -1"),
        ("prorank", ["stages.scores.loss_params={k: 1}"],
         "stages.scores.loss_params: loss 'ranknet' has no parameter 'k'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_anything_runs(
    folder, tiny_model_dir, experiment, overrides, fragment
):
    with pytest.raises((ValueError, LookupError)) as caught:
        composed(experiment, tiny_model_dir, "reward=[ndcg]", *overrides)
    assert fragment in str(caught.value)


def test_a_policy_is_named_by_a_word_or_by_its_kind(folder, tiny_model_dir):
    scores, choice = ("stages.scores.policy.list_size=20", "stages.scores.policy.kind=choice")
    assert composed("on_scores", tiny_model_dir, "reward=[ndcg]", scores).stages["scores"].policy == ScoresPolicy(
        entropy=0.01, list_size=20
    )
    word = ["reward=[exact_match]", "paradigm=pointwise", "stages.scores.policy=choice"]
    word = composed("on_scores", tiny_model_dir, *word)
    assert word.stages["scores"].policy == ChoicePolicy()
    # Another kind leaves the file's settings of the former one behind, and keeps those of the command line.
    given = ["stages.scores.policy.entropy=0.5", choice, "paradigm=pointwise"]
    kind = composed("on_scores", tiny_model_dir, "reward=[exact_match]", *given)
    assert kind.stages["scores"].policy == ChoicePolicy(entropy=0.5)
    # A word in the file can be added to.
    held = composed("prorank", tiny_model_dir, "reward=[prorank]", "stages.warmup.policy.restrict_to_answers=false")
    assert held.stages["warmup"].policy == ChoicePolicy(restrict_to_answers=False)


def test_the_plan_shows_the_arithmetic(folder, tiny_model_dir):
    config = composed("on_scores", tiny_model_dir, "reward=[ndcg]", "stages.scores.policy.estimator=moves")
    # 4 lists a step, 2 a forward; a list is one prompt of 400 tokens
    assert Experiment.of(config).describe(["scores"]) == [
        "scores  grpo on scores from model: 3 steps x 4 = 12 lists, 8 orders of each",
        "  1 process: 2 micro-batches of 2 lists a step",
        "  at most 1,600 tokens a process a step = 2 x (2 prompts x 400), 3 documents a list",
    ]
    config = composed("on_scores", tiny_model_dir, "reward=[ndcg]", "paradigm=pointwise", "data.depth=5")
    assert Experiment.of(config).describe(["scores"])[-1].endswith("= 2 x (10 prompts x 400), 5 documents a list")
    config = composed("prorank", tiny_model_dir, "reward=[prorank]")
    assert Experiment.of(config).describe(["warmup"]) == [
        "warmup  grpo on choice from model: 2 steps x 4 = 8 prompts",
        "  1 process: 2 micro-batches of 2 prompts a step",
        "  at most 1,600 tokens a process a step = 2 x (2 prompts x 400) for each token at which answers differ, "
        "which mostly is one",
    ]
