"""What the plan and the ledger make of a rerank stage's settings."""

from pathlib import Path

import pytest

from rl_rerank.config import Config, build
from rl_rerank.experiment import run_state
from rl_rerank.experiment.experiment import Experiment

PIPELINE = {"params": {"stages": [{"paradigm": "pointwise"}, {"paradigm": "listwise", "depth": 3}]}}


def config(tmp_path: Path, **changes) -> Config:
    (tmp_path / "data.jsonl").touch()
    values = {
        "run_dir": str(tmp_path / "run"),
        "data": {"source": "jsonl", "path": str(tmp_path / "data.jsonl")},
        "paradigms": {"pipeline": PIPELINE},
        "stages": {
            "bm25": {"kind": "rerank", "model": "first_stage"},
            "plain": {"kind": "rerank"},
            "piped": {"kind": "rerank", "paradigm": "pipeline", "shuffles": 3, "retries": 2},
            "fused": {"kind": "rerank", "fuse": ["plain", "bm25"], "fusion": {"method": "zscore", "weight": 0.8}},
        },
    }
    return build(Config, {**values, **changes})


def with_stage(tmp_path: Path, name: str, **stage) -> Config:
    whole = config(tmp_path)
    extra = build(Config, {"stages": {name: stage}}).stages
    whole.stages = {**whole.stages, **extra}
    return whole


def test_the_plan_says_what_is_asked_and_what_is_read(tmp_path):
    made = config(tmp_path)
    resolved = Experiment.of(made)
    assert [list(stage.paradigms) for stage in resolved.stages.values()] == [[], ["pointwise"], ["pipeline"], []]
    assert list(Experiment.of(made).stages["fused"].inputs) == ["bm25", "plain"]
    lines = Experiment.of(made).describe(["piped", "fused"])
    assert lines == [
        "piped  rerank: test queries with model, 10 candidates each, 3 times",
        "fused  rerank: test queries, plain and bm25 fused",
    ]


def test_every_setting_is_a_part_of_the_configuration_that_counts(tmp_path):
    piped, fused = (run_state.record(Experiment.of(config(tmp_path)), name) for name in ("piped", "fused"))
    assert piped["paradigms"]["pipeline"]["params"] == PIPELINE["params"]
    assert {piped["stages"]["piped"][key] for key in ("shuffles", "retries")} == {3, 2}
    assert piped["stages"]["piped"]["long_documents"]["mode"] == "head"
    # A stage with a paradigm of its own does not depend on the experiment's.
    assert "paradigm" not in piped
    assert run_state.record(Experiment.of(config(tmp_path)), "plain")["paradigm"] == "pointwise"
    assert fused["stages"]["fused"]["fusion"] == {"method": "zscore", "weight": 0.8}
    assert not {"model", "engine", "paradigms"} & fused.keys()


@pytest.mark.parametrize(
    ("stage", "kind", "reason"),
    [
        ({"kind": "rerank", "fuse": ["plain", "nowhere"]}, LookupError, "late.fuse names 'nowhere', which is no stage"),
        ({"kind": "rerank", "fuse": ["plain", "late"]}, ValueError, "does not come before it"),
        ({"kind": "rerank", "fuse": ["plain", "bm25"], "split": "dev"}, ValueError, "ranks split 'test' and not 'dev'"),
        ({"kind": "rerank", "format_prompts": {"pipeline": 3}}, ValueError, "a pipeline of pointwise, listwise"),
        ({"kind": "rerank", "paradigm": "listwise", "long_documents": {"mode": "maxp"}}, ValueError, "gives no scores"),
        ({"kind": "synth", "mixture": {"pipeline": 3}}, ValueError, "stages.late makes prompts of the paradigm"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(tmp_path, stage, kind, reason):
    with pytest.raises(kind, match=reason):
        Experiment.of(with_stage(tmp_path, "late", **stage))


def tuned(tmp_path: Path, dev: list[str], split: str = "dev", measure: str = "nDCG@10", **system) -> Config:
    """Two systems on test queries, on those of `split`, and a fusion with a weight chosen on `dev`."""
    weight = {"dev": dev, "measure": measure}
    stages = {
        "bm25": {"kind": "rerank", "model": "first_stage"},
        "plain": {"kind": "rerank"},
        "bm25_dev": {"kind": "rerank", "model": "first_stage", "split": split},
        "plain_dev": {"kind": "rerank", "split": split, "label": "other", **system},
        "fused": {"kind": "rerank", "fuse": ["plain", "bm25"], "fusion": {"method": "zscore", "weight": weight}},
        "alone": {"kind": "rerank", "fusion": {"method": "zscore", "weight": {**weight, "dev": dev[:1]}}},
    }
    return config(tmp_path, stages=stages)


def test_a_weight_chosen_on_development_queries_reads_their_stages(tmp_path):
    made = Experiment.of(tuned(tmp_path, ["plain_dev", "bm25_dev"]))
    assert list(made.stages["fused"].inputs) == ["bm25", "plain", "bm25_dev", "plain_dev"]
    assert list(made.stages["alone"].inputs) == ["plain_dev"]
    [line] = made.describe(["fused"])
    assert line.endswith("plain and bm25 fused, the weight chosen on plain_dev and bm25_dev")
    record = run_state.record(made, "fused")["stages"]["fused"]["fusion"]
    assert record["weight"] == {"dev": ["plain_dev", "bm25_dev"], "measure": "nDCG@10"}


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"dev": ["plain_dev"]}, ValueError, r"fusion.weight.dev names 2 rerank stages of dev.*; got \['plain_dev'\]"),
        ({"dev": ["plain_dev", "no"]}, LookupError, "fused.fusion.weight.dev names 'no', which is no stage"),
        (
            {"split": "test"},
            ValueError,
            "weight.dev names 'plain_dev', which ranks split 'test': a weight is chosen",
        ),
        ({"shuffles": 2}, ValueError, "names 'plain_dev', which is another system .*: they differ in shuffles"),
        (
            {"dev": ["bm25_dev", "plain_dev"]},
            ValueError,
            "'bm25_dev', which is another .*: they differ in model",
        ),
        ({"measure": "nCDG@10"}, ValueError, "'nCDG@10' is no measure"),
    ],
)
def test_a_weight_is_chosen_for_the_fused_systems_on_development_queries_only(tmp_path, changes, kind, reason):
    with pytest.raises(kind, match=reason):
        Experiment.of(tuned(tmp_path, **{"dev": ["plain_dev", "bm25_dev"], **changes}))


def test_a_fixed_weight_is_recorded_as_it_was(tmp_path):
    with pytest.raises(ValueError, match=r"fusion.weight must be from 0 to 1, or \{dev: \[STAGE, ...\]\}; got 1.5"):
        with_stage(tmp_path, "late", kind="rerank", fusion={"weight": 1.5})
    whole = with_stage(tmp_path, "late", kind="rerank", fusion={"weight": 1})
    fusion = run_state.record(Experiment.of(whole), "late")["stages"]["late"]["fusion"]
    assert fusion == {"method": "minmax", "weight": 1.0}


def test_a_pipeline_is_not_trained(tmp_path):
    training = {"grpo": {"kind": "grpo"}}
    made = config(tmp_path, paradigm="pipeline", stages=training, rewards={"ndcg": {}})
    with pytest.raises(ValueError, match=r"stages.grpo makes prompts of the paradigm 'pipeline'"):
        Experiment.of(made)
