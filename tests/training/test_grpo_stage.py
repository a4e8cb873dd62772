"""The GRPO stage with a token budget, refilling and a curriculum, as configured, killed and resumed."""

import json
import shutil

import pytest

from rl_rerank.config import CurriculumConfig, build
from rl_rerank.experiment.compose import compose
from rl_rerank.io.files import read_jsonl
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.reward.base import Term
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.grpo.policies import TokensPolicy
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.plugins import Plugins
from rl_rerank.training.loop import batches
from rl_rerank.training.loop.pass_rate import STATE

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
            *("experiment=quickstart", "data=jsonl", f"data.path={tmp_path / 'data.jsonl'}", "budget=smoke"),
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
