"""A teacher's scores from synthesis to training: as one experiment, and what the plan refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import three_candidates

from rl_rerank.data.examples import ExampleFile
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.engines.local.tokenizer import renderer
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import read_jsonl
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.sft import run as sft_stage
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank.stages.synth import run as synth_stage
from rl_rerank.stages.synth.spec import SynthStage

pytestmark = pytest.mark.slow

DISTILLED = """\
# @package _global_
paradigm: pointwise
stages:
  synth: {kind: synth, mixture: {pointwise: 0}, steps: {run_scores: {params: {path: rankings.jsonl}}}}
  sft:
    {kind: sft, data: synth, loss: mse, target: scores, answer_weight: 0, batch_size: 4, micro_batch: 4, max_steps: 30,
     learning_rate: 3e-3}
  rl:
    {kind: grpo, data: synth, policy: {kind: scores, loss: soft_ranknet, target: scores}, prompts_per_step: 4,
     micro_batch: 4, max_steps: 2, learning_rate: 1e-3}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    three_candidates.write(tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/distilled.yaml").write_text(DISTILLED)
    # The teacher prefers documents by their letter, whatever the judgments say.
    rows = [{"qid": f"q{i}", "raw_scores": {f"{i}a": 4.5 + i / 100, f"{i}b": 0.25, f"{i}c": -4.0}} for i in range(12)]
    (tmp_path / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def composed(model_dir, *overrides):
    config = compose(
        "run",
        [
            *("experiment=distilled", "data=jsonl", "data.path=data.jsonl", "run_dir=run", "report_to=[]"),
            *(f"model.path={model_dir}", "model.max_prompt_tokens=400", "reward=[ndcg]", *overrides),
        ],
    )
    Experiment.of(config)
    return config


def distance(examples, model_dir) -> float:
    """The mean squared difference between a model's scores and the examples' gold scores."""
    engine = HFEngine(model_dir, renderer(composed(model_dir).model, model_dir))
    rankings, _ = rerank(examples, Pointwise(), engine)
    return float(
        np.mean(
            [(r.raw_scores[d] - e.scores[d]) ** 2 for r, e in zip(rankings, examples, strict=True) for d in e.docids]
        )
    )


def test_a_student_comes_closer_to_its_teacher_and_rewards_can_be_trained_beside(folder, tiny_model_dir):
    config = composed(tiny_model_dir)
    synth, sft, rl = (config.stages[name] for name in ("synth", "sft", "rl"))
    assert isinstance(synth, SynthStage) and isinstance(sft, SFTStage) and isinstance(rl, GRPOStage)
    synth_stage.run(config, "synth", synth)
    examples = list(ExampleFile(Path("run/synth/examples.jsonl")))
    assert len(examples) == 9 and all(len(e.scores) == 3 for e in examples)
    sft_stage.run(config, "sft", sft)
    before, after = distance(examples, tiny_model_dir), distance(examples, Path("run/sft/model"))
    assert after < 0.2 * before
    losses = [row["loss"] for row in read_jsonl(folder / "run/sft/metrics.jsonl")]
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])
    grpo_stage.run(config, "rl", rl)
    rows = read_jsonl(folder / "run/rl/metrics.jsonl")
    assert len(rows) == 2 and all(row["ranking_loss"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["stages.sft.target=grades"],
         "stages.sft.target=grades cannot be read by stages.sft.loss=mse, which reads scores"),
        (["stages.sft.loss=ranknet"],
         "stages.sft.target=scores cannot be read by stages.sft.loss=ranknet, which reads grades or order"),
        (["stages.sft.loss=bce", "stages.sft.target=order"],
         "stages.sft.target=order cannot be read by stages.sft.loss=bce, which reads grades"),
        (["stages.rl.policy.target=order"],
         "stages.rl.policy.target=order cannot be read by stages.rl.policy.loss=soft_ranknet, which reads scores"),
        (["+stages.sft.curriculum={kind: reciprank}"],
         "and stages.sft.loss=mse is made of neither"),
        (["stages.sft.loss=margin_mse", "+stages.sft.curriculum={kind: pass_rate}"],
         "stages.sft.curriculum.kind=pass_rate chooses queries by sampled answers; a loss has none"),
        (["stages.sft.loss=completion"],
         "stages.sft.target=scores means nothing to loss=completion, which learns answers; leave it out"),
        (["stages.sft.loss=completion", "stages.sft.target=grades", "stages.sft.judged_only=true"],
         "stages.sft.judged_only=true means nothing to loss=completion"),
        (["stages.rl.policy.loss=null", "+stages.rl.policy.weights={feature: seen}"],
         "stages.rl.policy.weights means nothing without a loss; leave it out"),
        (["stages.rl.policy.loss=null", "+stages.rl.policy.curriculum={kind: reciprank}"],
         "stages.rl.policy.curriculum means nothing without a loss; leave it out"),
        (["stages.sft.data=syn"], "stages.sft.data names 'syn'"),
        (["stages.sft.target=labels"], "stages.sft.target must be one of grades, scores, order; got 'labels'"),
        (["+stages.sft.weights={feature: seen, floor: 2}"], "weights: floor must be above 0 and at most 1; got 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused_by_the_plan(folder, tiny_model_dir, overrides, says):
    with pytest.raises((ValueError, LookupError)) as caught:
        composed(tiny_model_dir, *overrides)
    assert says in str(caught.value)


def test_the_plan_says_what_is_learned(folder, tiny_model_dir):
    config = composed(tiny_model_dir)
    [line, *_] = Experiment.of(config).describe(["sft"])
    assert line.endswith("30 steps x 4 lists = 120 lists, towards the scores of synth")


def test_lists_without_a_loss_are_drawn_by_any_target(folder, tiny_model_dir):
    composed(tiny_model_dir, "stages.rl.policy.loss=null", "stages.rl.policy.judged_only=true")
    composed(tiny_model_dir, "stages.sft.loss=first", "stages.sft.target=order", "+stages.sft.weights={feature: seen}")
