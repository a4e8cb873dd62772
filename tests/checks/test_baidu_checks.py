"""Checks of Baidu's system: graded calibration, a bound on losses, and what a pyramid costs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.checked_runs import N, findings, made

from rl_rerank.config import Config, EngineConfig, ModelConfig, PluginConfig
from rl_rerank.data import prepare
from rl_rerank.engines.local import checkpoint, pyramid
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import write_jsonl
from rl_rerank.stages.check.spec import CheckStage
from rl_rerank.stages.pyramid import run as pyramid_stage
from rl_rerank.stages.pyramid.spec import PyramidStage
from rl_rerank.stages.rerank import run as rerank_stage
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank_checks import calibration


@pytest.fixture
def config(tmp_path):
    """40 test queries, whose documents have grades 0 to 3, and two rerank stages."""
    config = made(tmp_path, queries=80)
    prepare(config.data, Path(config.run_dir) / "data")
    for name in ("good", "bad"):
        config.stages[name] = RerankStage(kind="rerank")
    return config


def scored(config, stage, probability):
    """Write a stage's rankings by the probability that it gives a document of a grade."""
    store, rng, rows = prepare(config.data, Path(config.run_dir) / "data"), np.random.default_rng(0), []
    lines = []
    for qid, grades in store.qrels("test").items():
        p = {f"{qid[1:]}-{n}": probability(grades.get(f"{qid[1:]}-{n}", 0), rng) for n in range(N)}
        rows.append({"qid": qid, "raw_scores": {docid: math.log(x / (1 - x)) for docid, x in p.items()}})
        order = sorted(p, key=lambda docid, p=p: -p[docid])
        lines += [f"{qid} Q0 {docid} {rank} {-rank} x\n" for rank, docid in enumerate(order, 1)]
    write_jsonl(Path(config.run_dir) / stage / "rankings.jsonl", rows)
    (Path(config.run_dir) / stage / "run.trec").write_text("".join(lines))


def near_the_anchor(grade, rng):
    return (grade + 0.5) / 5 + rng.uniform(-0.02, 0.02)


def test_scores_at_the_anchors_of_grades_are_calibrated(config):
    scored(config, "good", near_the_anchor)
    # The same orders, squeezed: 0.1 becomes .55, 0.7 becomes .85.
    scored(config, "bad", lambda grade, rng: 0.5 + near_the_anchor(grade, rng) / 2)
    check = {"stage": "good", "others": ["bad"], "levels": 5}
    [(passed, said)] = findings(config, calibration=check)
    # Of 12 documents nine have grade 0, and one each 1, 2 and 3: means of .45, .35, .25 and .15 too high.
    assert passed and said.startswith("0.0") and f"and {(9 * 0.45 + 0.35 + 0.25 + 0.15) / 12:.2f}" in said
    assert said.endswith("p = 0.0005")
    [(passed, said)] = findings(config, calibration={**check, "stage": "bad", "others": ["good"]})
    assert not passed
    # By grades above 0 alone the anchors are no probabilities.
    [(_, said)] = findings(config, calibration={"stage": "good", "others": ["bad"]})
    assert said.startswith("0.2")
    with pytest.raises(ValueError, match="a document is graded 3, and levels=3"):
        findings(config, calibration={**check, "levels": 3})
    with pytest.raises(ValueError, match="levels must be at least 2; got 1"):
        calibration.Calibration("good", ["bad"], levels=1)


def test_p_of_equal_systems_is_not_small():
    rng = np.random.default_rng(3)
    values = []
    for _ in range(40):
        both = rng.normal(0.05, 0.1, (2, 60, 10))
        ours, others = (np.stack([gaps, np.ones_like(gaps)], -1) for gaps in both)
        values.append(calibration.p_value(ours, others, 1))
    # Under the null hypothesis p is uniform: of 40 values about two below .05, and their mean is .5 +- .14 (3 sd).
    assert sum(p < 0.05 for p in values) <= 6 and 0.36 < np.mean(values) < 0.64
    assert calibration.p_value(ours, ours, 1) == 1


def test_a_loss_is_bounded_from_few_differences(config):
    scored(config, "good", near_the_anchor)
    scored(config, "bad", near_the_anchor)
    what = {"stage": "good", "other": "bad"}
    assert findings(config, not_worse=what) == [
        (True, "1.000 and 1.000 on 40 queries, difference +0.000, above +0.000"),
    ]
    # In one query of eight the best two documents change places: a mean loss of about 1%, whose bound is lower.
    seen = iter(range(10**6))
    scored(config, "good", lambda g, rng: near_the_anchor(5 - g if g > 1 and next(seen) // 2 % 8 == 0 else g, rng))
    [(passed, said)] = findings(config, not_worse=what)
    difference, bound = (float(part.split()[-1]) for part in said.split(", ")[1:])
    assert not passed and bound < difference < 0 and bound < -0.01
    [(passed, _)] = findings(config, not_worse={**what, "by": 0.2})
    assert passed


@pytest.mark.parametrize(
    ("check", "params", "says"),
    [
        ("not_worse", {"stage": "good", "other": "nowhere"}, "names the rerank stage 'nowhere'"),
        ("not_worse", {"stage": "good", "other": "bad", "by": -1}, "by must be at least 0; got -1"),
        ("not_worse", {"stage": "good", "other": "bad", "measure": "reward"}, "higher values are better"),
        ("pyramid_cost", {"full": "good", "student": "bad"}, "'bad' ranks with no pyramid"),
        ("pyramid_cost", {"full": "good", "student": "bad", "windows": 0}, "windows must be at least 1; got 0"),
        ("pyramid_cost", {"full": "good", "student": "bad", "within": 0.5}, "within must be at least 1; got 0.5"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_before_the_run(config, check, params, says):
    config.stages["mechanism"] = CheckStage(kind="check", checks={check: params})
    with pytest.raises((LookupError, ValueError), match=says):
        Experiment.of(config)


@pytest.fixture
def wide(tmp_path, tiny_model_dir, chatml_tokenizer) -> Path:
    """A model of four layers that are wide enough for arithmetic to take most of the time."""
    model = checkpoint.load_model(tiny_model_dir, "float32")
    model.config.update({"num_hidden_layers": 8, "intermediate_size": 4096, "hidden_size": 512, "head_dim": 64})
    model.config.update({"num_attention_heads": 8, "num_key_value_heads": 8})
    type(model)(model.config).save_pretrained(tmp_path / "wide")
    chatml_tokenizer.save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


@pytest.mark.slow
def test_a_pyramid_costs_what_its_operations_say(config, wide):
    asked = PluginConfig(params={"wording": "pointwise_apart"})
    config = Config(
        run_dir=config.run_dir,
        data=config.data,
        model=ModelConfig(path=str(wide)),
        engine=EngineConfig(kind="hf"),
        paradigm="pointwise",
        paradigms={"pointwise": asked},
    )
    config.data.test_queries = 1
    config.stages["unmixed"] = PyramidStage(kind="pyramid", upper=0.25)
    config.stages["full"] = RerankStage(kind="rerank")
    config.stages["student"] = RerankStage(kind="rerank", model="unmixed")
    pyramid_stage.run(config, "unmixed", config.stages["unmixed"])
    for name in ("full", "student"):
        rerank_stage.run(config, name, config.stages[name])
    [(passed, said)] = findings(config, pyramid_cost={"full": "full", "student": "student", "windows": 1, "within": 2})
    share = int(said.split("%")[0])
    # The upper quarter of the layers for all tokens, and the rest for the query's messages alone.
    assert passed and 25 <= share < 60 and "over 1 windows; nDCG@10" in said
    settings = json.loads((Path(config.run_dir) / "unmixed/model/config.json").read_text())
    assert settings[pyramid.KEY] == {
        "lower_layers": 6,
        "boundary": checkpoint.load_tokenizer(wide).encode("<|im_start|>")[0],
    }


def test_the_share_of_layers_is_checked_and_a_template_without_boundary_refused(config, tiny_model_dir, tmp_path):
    with pytest.raises(ValueError, match="upper must be above 0 and below 1; got 1"):
        PyramidStage(kind="pyramid", upper=1)
    plain = tmp_path / "plain"
    checkpoint.copy(tiny_model_dir, plain, "float32")
    tokenizer = checkpoint.load_tokenizer(plain)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(plain)
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    config.model.path = str(plain)
    config.stages["unmixed"] = stage = PyramidStage(kind="pyramid")
    with pytest.raises(ValueError, match="has no chat template, so nothing marks where a message begins"):
        pyramid_stage.run(config, "unmixed", stage)
