"""The GRPO stage with a token budget, refilling and a curriculum, as configured, killed and resumed."""

import json
import re
import shutil

import pytest
import torch

from rl_rerank.config import CurriculumConfig, build
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import read_jsonl
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.reward.base import Term
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.grpo.policies import ScoresPolicy, TokensPolicy
from rl_rerank.stages.grpo.rollouts import VLLMRollout
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.plugins import Plugins
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank.training.loop import batches
from rl_rerank.training.loop.micro_batches import CPU_TOKENS
from rl_rerank.training.loop.pass_rate import STATE
from rl_rerank.training.memory import budget as memory_budget
from rl_rerank.training.memory import estimate
from rl_rerank.training.memory.cards import Hardware

pytestmark = pytest.mark.slow

REWARD = """\
class Letters:
    def __call__(self, example, rollout):
        return sum(c.isalpha() for c in rollout.completion.text) / (1 + len(rollout.completion.text))
"""


def composed(tmp_path, tiny_model_dir, *overrides):
    rows = [
        {
            "qid": f"q{i}",
            "query": f"query {i}",
            "candidates": [
                {"docid": f"{i}{c}", "text": f"the text {c} {i}", "score": 9 - k} for k, c in enumerate("abc")
            ],
            "qrels": {f"{i}{'abc'[i % 3]}": 1},
            "split": "train",
        }
        for i in range(9)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(REWARD)
    return compose(
        "run",
        [
            *("experiment=quickstart_tokens", "budget=tokens_smoke"),
            *("data=jsonl", f"data.path={tmp_path / 'data.jsonl'}"),
            *(f"run_dir={tmp_path / 'run'}", f"model.path={tiny_model_dir}", "model.max_prompt_tokens=400"),
            *(f"reward=[{tmp_path / 'mine.py'}:Letters]", "stages.grpo.model=model", "stages.grpo.max_steps=4"),
            *("stages.grpo.save_steps=2", "stages.grpo.learning_rate=1e-3", "report_to=[]", *overrides),
        ],
    )


@pytest.mark.parametrize("kind", ["pass_rate", "normscore"])
def test_a_resumed_stage_asks_what_it_would_have_asked(tiny_model_dir, tmp_path, kind):
    config = composed(
        tmp_path,
        tiny_model_dir,
        "stages.grpo.policy.micro_batch_tokens=600",
        "stages.grpo.policy.dynamic_sampling=1",
        "stages.grpo.policy.zero_variance_std=0.2",
        f"+stages.grpo.curriculum={{kind: {kind}}}",
    )
    stage = config.stages["grpo"]
    assert isinstance(stage, GRPOStage)
    grpo_stage.run(config, "grpo", stage)
    folder = tmp_path / "run/grpo"
    rows = read_jsonl(folder / "completions.jsonl")
    assert {row["step"] for row in rows} == {1, 2, 3, 4}
    assert len(rows) == 4 * stage.prompts_per_step * stage.num_generations
    metrics = read_jsonl(folder / "metrics.jsonl")
    assert all("refill/replaced_groups" in row and row["time/rollout"] > 0 for row in metrics)

    shutil.rmtree(folder / "checkpoints/checkpoint-4")
    shutil.rmtree(folder / "model")
    if kind == "pass_rate":
        counts = json.loads((folder / "checkpoints/checkpoint-2" / STATE).read_text())
        # Those of the spare groups are counted, too.
        assert sum(answers for _, answers in counts.values()) > 2 * stage.prompts_per_step * stage.num_generations
    grpo_stage.run(config, "grpo", stage)
    assert [(r["step"], r["qid"], r["docids"]) for r in read_jsonl(folder / "completions.jsonl")] == [
        (r["step"], r["qid"], r["docids"]) for r in rows
    ]


@pytest.mark.parametrize("budget", ["auto", "600"])
def test_a_batch_is_trained_on_in_several_updates_each_prompt_once(tiny_model_dir, tmp_path, budget):
    config = composed(
        tmp_path,
        tiny_model_dir,
        f"stages.grpo.policy.micro_batch_tokens={budget}",
        "stages.grpo.policy.updates_per_batch=2",
        "stages.grpo.policy.dynamic_sampling=1",
        "stages.grpo.beta=0.01",
        "stages.grpo.schedule=constant",
        "stages.grpo.warmup_ratio=0.5",
    )
    stage = config.stages["grpo"]
    assert isinstance(stage, GRPOStage)
    [plan, *_] = stage.describe("grpo", Plugins(config))
    assert plan.endswith("4 prompts x 4 generations = 16 completions a step, sampled for 2 steps at once, 64 in all")
    grpo_stage.run(config, "grpo", stage)
    rows = read_jsonl(tmp_path / "run/grpo/completions.jsonl")
    assert [row["step"] for row in rows] == [1] * 32 + [3] * 32
    metrics = read_jsonl(tmp_path / "run/grpo/metrics.jsonl")
    assert [row["time/rollout"] > 0 for row in metrics] == [True, False, True, False]
    assert all(row["grad_norm"] > 0 for row in metrics)
    # Two steps of warm-up; the rate that is logged is that of the next step.
    assert [row["learning_rate"] for row in metrics] == pytest.approx([0, 5e-4, 1e-3, 1e-3])


def test_a_plan_says_what_is_larger_than_the_budget(tiny_model_dir, tmp_path):
    settings = ("stages.format.micro_batch_tokens=300", "stages.format.batch_size=16", "stages.sft.micro_batch=null")
    config = composed(tmp_path, tiny_model_dir, *settings)
    rows, lists, plugins = config.stages["format"], config.stages["sft"], Plugins(config)
    [limit, alone, _] = rows.describe_batches("format", plugins)
    assert limit == "1 process: 16 rows a step, in micro-batches of up to 300 tokens"
    longest = 400 + rows.completion_tokens(plugins)
    assert alone == f"a row above the budget, of up to {longest:,} tokens, is computed alone"
    [limit, _] = lists.describe_batches("sft", plugins)
    assert limit == "1 process: 4 lists a step, in micro-batches of as many tokens as fit the memory"


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="sft stage: micro_batch_tokens must be at least 1; got 0"):
        SFTStage(kind="sft", micro_batch_tokens=0)
    with pytest.raises(ValueError, match="grpo stage: policy: micro_batch_tokens must be at least 1; got -2"):
        GRPOStage(kind="grpo", policy=ScoresPolicy(micro_batch_tokens=-2))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.grpo.trl.use_bias_correction_kl=true"], "would override stages.grpo.policy.kl_estimator"),
        (["stages.grpo.trl.steps_per_generation=4"], "would override stages.grpo.policy.updates_per_batch"),
        (["stages.grpo.trl.generation_batch_size=8"], "policy.updates_per_batch and prompts_per_step"),
        (["stages.grpo.trl.vllm_importance_sampling_cap=2"], "would override stages.grpo.rollout.correction_clip"),
        (["stages.sft.trl.lr_scheduler_type=cosine"], "stages.sft.trl.lr_scheduler_type='cosine' would override"),
        (["stages.sft.trl.warmup_steps=3"], "would override stages.sft.warmup_ratio; set that instead"),
        (["stages.format.trl.weight_decay=0.1"], "would override stages.format.weight_decay; set that instead"),
        (["stages.grpo.policy=scores", "stages.grpo.trl.lr_scheduler_type=cosine"], "override stages.grpo.schedule"),
        (["stages.grpo.trl.epsilon=0.3"], "stages.grpo.trl.epsilon=0.3 would override stages.grpo.policy.epsilon"),
        (["stages.sft.trl.num_train_epochs=3"], "would override stages.sft.max_steps; set that instead"),
        # What would do nothing, or fail when the stage has started.
        (
            ["stages.grpo.trl.eval_steps=5"],
            "trl.eval_steps=5 is refused: trainers have no evaluation set; ",
        ),
        (["stages.sft.trl.packing=true"], "stages.sft.trl.packing=True is refused: a stage makes its rows"),
        (["stages.grpo.trl.logging_strategy=epoch"], "is refused: the rules of health read every logged step"),
        (["stages.grpo.trl.hub_token=secret"], "stages.grpo.trl.hub_token is refused: push=user/name uploads"),
    ],
)
def test_a_setting_has_no_second_door(tiny_model_dir, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Experiment.of(composed(tmp_path, tiny_model_dir, *overrides))


def budget(tmp_path, model_dir, *overrides):
    config = composed(tmp_path, model_dir, *overrides)
    return memory_budget.tokens(config.stages["grpo"], "grpo", Plugins(config), model_dir)


def test_micro_batches_fill_a_budget_unless_their_rows_are_given(tiny_model_dir, tmp_path):
    assert budget(tmp_path, tiny_model_dir, "stages.grpo.micro_batch=null") == CPU_TOKENS
    assert budget(tmp_path, tiny_model_dir, "stages.grpo.micro_batch=4") is None
    assert budget(tmp_path, tiny_model_dir, "stages.grpo.policy.micro_batch_tokens=600") == 600


def test_on_a_gpu_the_budget_is_what_fits_it(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(estimate, "here", lambda: Hardware(1, "small", 4.0))
    found = budget(tmp_path, tiny_model_dir, "stages.grpo.micro_batch=null")
    monkeypatch.setattr(estimate, "here", lambda: Hardware(1, "smaller", 3.0))
    assert found > budget(tmp_path, tiny_model_dir, "stages.grpo.micro_batch=null") > 10_000
    monkeypatch.setattr(estimate, "here", lambda: Hardware(1, "smallest", 1.0))
    with pytest.raises(ValueError, match=r"^stages\.grpo\.policy\.micro_batch_tokens=auto: a process needs \d\.\d GiB"):
        budget(tmp_path, tiny_model_dir, "stages.grpo.micro_batch=null")


def test_a_budget_takes_the_place_of_the_micro_batch(tiny_model_dir, tmp_path):
    config = composed(
        tmp_path, tiny_model_dir, "stages.grpo.policy.micro_batch_tokens=600", "stages.grpo.micro_batch=3"
    )
    stage = config.stages["grpo"]
    found = batches.layout("grpo", stage.step(), stage.micro_batch, processes=1)
    assert (found.micro_batches, found.micro_batch) == (1, stage.prompts_per_step * stage.num_generations)
    [line, _] = stage.describe_batches("grpo", Plugins(config))
    assert "in micro-batches of up to 600 tokens; every group lies whole on one process" in line


def test_a_part_of_a_query_is_not_replaced():
    class Compares:
        def score_all(self, example, rollouts):
            return [0.0 for _ in rollouts]

    stage = GRPOStage(kind="grpo", prompts_per_step=8, policy=TokensPolicy(dynamic_sampling=1))
    with pytest.raises(
        ValueError, match=r"asks 4 prompts about one, so policy.dynamic_sampling=1 would replace a part"
    ):
        stage.whole_queries("grpo", [Term("erank", Compares())], PointwiseGraded(documents=4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GRPOStage(kind="grpo", policy=TokensPolicy(micro_batch_tokens=0)),
            "micro_batch_tokens must be at least 1; got 0",
        ),
        (
            lambda: GRPOStage(kind="grpo", policy=TokensPolicy(dynamic_sampling=-1)),
            "dynamic_sampling must be at least 0; got -1",
        ),
        (
            lambda: GRPOStage(kind="grpo", policy=TokensPolicy(zero_variance_std=-0.1)),
            "zero_variance_std must be at least 0; got -0.1",
        ),
        (
            lambda: GRPOStage(kind="grpo", policy=TokensPolicy(updates_per_batch=0)),
            "updates_per_batch must be at least 1; got 0",
        ),
        (
            lambda: GRPOStage(kind="grpo", policy=TokensPolicy(algorithm="gspo", kl_estimator="k3_weighted")),
            "policy.kl_estimator=k3_weighted weights every token by its own ratio, and algorithm=gspo has one",
        ),
        (lambda: build(TokensPolicy, {"kl_estimator": "k1"}), "kl_estimator must be one of k3, k3_weighted; got 'k1'"),
        (lambda: VLLMRollout(correction_clip=1.0), r"correction_clip must be above 1, .*; got 1\.0"),
        (lambda: GRPOStage(kind="grpo", warmup_ratio=1.5), "grpo stage: warmup_ratio must be from 0 to 1; got 1.5"),
        (lambda: SFTStage(kind="sft", weight_decay=-0.1), "sft stage: weight_decay must be at least 0; got -0.1"),
        (
            lambda: SFTStage(kind="sft", schedule="cosine_with_min_lr"),
            r"needs min_lr or min_lr_rate in trl\.lr_scheduler_kwargs; got None",
        ),
        (
            lambda: build(CurriculumConfig, {"kind": "easy"}),
            "kind must be one of reciprank, normscore, kdescore, pass_rate",
        ),
        (lambda: CurriculumConfig(steps=0), "steps must be at least 1; got 0"),
        (lambda: CurriculumConfig(kind="pass_rate", anti=True), "pass_rate has no such control"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
