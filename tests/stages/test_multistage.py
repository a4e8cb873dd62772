"""Cross-encoders from their training to a pipeline of two stages."""

from __future__ import annotations

import importlib
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.checked_runs import findings
from support.cross_encoders import make
from transformers import AutoModelForSequenceClassification

from rl_rerank.config import Config, DataConfig, EngineConfig, ModelConfig, PluginConfig
from rl_rerank.data import prepare
from rl_rerank.evaluation.cost import Cost
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import read_jsonl, write_json, write_jsonl
from rl_rerank.paradigms.ordering import rank_by_scores
from rl_rerank.stages.check.spec import CheckStage
from rl_rerank.stages.cross_encoder.spec import CrossEncoderStage
from rl_rerank.stages.rerank.cascade import completed, cost_behind, shortened
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.types import Candidate, Ranking, RankingExample

pytest.importorskip("sentence_transformers", reason="the extra cross-encoder has it")

ENCODER = EngineConfig(kind="cross_encoder")
WORDS = ("array", "sort", "france", "paris", "elements", "stable")


@pytest.fixture
def config(tmp_path) -> Config:
    """Six documents a query, in random order, of which the one about Paris is relevant."""
    rows = []
    for number in range(120):
        rng = random.Random(number)
        words = rng.sample(WORDS, len(WORDS))
        candidates = [
            {"docid": f"{number}-{w}", "text": f"the {w} of a place", "score": -i} for i, w in enumerate(words)
        ]
        rows.append(
            {
                "qid": f"q{number}",
                "query": "capital",
                "candidates": candidates,
                "qrels": {f"{number}-{w}": int(w == "paris") for w in words},
                "split": "test" if number < 40 else "train",
            }
        )
    write_jsonl(tmp_path / "data.jsonl", rows)
    model = AutoModelForSequenceClassification.from_pretrained(make(tmp_path / "encoder"))
    torch.nn.init.normal_(model.classifier.weight, std=0.02)
    model.save_pretrained(tmp_path / "encoder")
    return Config(
        run_dir=str(tmp_path / "run"),
        data=DataConfig(source="jsonl", path=str(tmp_path / "data.jsonl"), depth=6),
        model=ModelConfig(path="/nowhere"),
        paradigms={
            name: PluginConfig(name="pairwise", params={"mode": "scoring", "aggregation": name})
            for name in ("sym_sum", "one_order")
        },
        stages={
            "first_stage": RerankStage(kind="rerank", model="first_stage"),
            "mono": training(tmp_path),
            "duo": training(tmp_path, paradigm="sym_sum"),
            "mono_eval": RerankStage(kind="rerank", model="mono", engine=ENCODER),
            "duo_eval": second(),
            "duo_again": second(seed=2),
            "one_order": second(paradigm="one_order"),
            "one_order_again": second(paradigm="one_order", seed=2),
        },
        report_to=[],
    )


def training(tmp_path, **settings) -> CrossEncoderStage:
    return CrossEncoderStage(
        kind="cross_encoder",
        model=str(tmp_path / "encoder"),
        learning_rate=2e-3,
        batch_size=16,
        max_steps=120,
        **settings,
    )


def second(**settings) -> RerankStage:
    given = {"paradigm": "sym_sum", "candidates": "mono_eval", "depth": 3, **settings}
    return RerankStage(kind="rerank", model="duo", engine=ENCODER, **given)


def run(config: Config, *names: str) -> None:
    Experiment.of(config)
    for name in names or config.stages:
        stage = config.stages[name]
        importlib.import_module(f"rl_rerank.stages.{stage.kind}.run").run(config, name, stage)


def rankings(config: Config, stage: str) -> dict[str, list[str]]:
    return {row["qid"]: row["docids"] for row in read_jsonl(Path(config.run_dir) / stage / "rankings.jsonl")}


def summary(config: Config, stage: str) -> dict:
    return json.loads((Path(config.run_dir) / stage / "summary.json").read_text())


@pytest.mark.slow
def test_two_trained_stages_rank_one_after_the_other(config):
    run(config)
    # Six documents in random order have a mean reciprocal rank of .41.
    relevant = prepare(config.data, Path(config.run_dir) / "data").qrels("test")
    for stage in ("mono_eval", "duo_eval"):
        best = [relevant[qid].get(docids[0], 0) for qid, docids in rankings(config, stage).items()]
        assert sum(best) / len(best) > 0.9, stage
    mono, duo = (summary(config, stage)["cost"] for stage in ("mono_eval", "duo_eval"))
    assert mono["calls"] == 40 * 6 and duo["calls"] == 40 * (6 + 3 * 2)
    assert duo["rounds"] == 2 and duo["seconds"] > mono["seconds"]
    assert summary(config, "one_order")["num_prompts"] == 40 * 3
    checks = {
        "cascade": {"stages": ["first_stage", "mono_eval", "duo_eval"]},
        "same_rankings": {"stage": "duo_eval", "again": "duo_again"},
    }
    found = findings(config, **checks)
    assert [passed for passed, _ in found] == [True, True, True, False, True, True, True], found  # mono left no room
    # A faulty stage is seen: one that ranks other documents, and one whose ties follow the order shown.
    path = Path(config.run_dir) / "duo_eval/rankings.jsonl"
    rows = read_jsonl(path)
    for row in rows:
        row["docids"] = row["docids"][::-1]
    write_jsonl(path, rows)
    found = [passed for passed, _ in findings(config, **checks)]
    assert (found[4], found[6]) == (False, False)


@pytest.mark.slow
def test_an_untrained_comparison_depends_on_the_order_and_its_symmetric_sum_does_not(config):
    for stage in ("mono", "duo"):
        config.stages[stage] = replace(config.stages[stage], max_steps=1)
    run(config)
    expected = {"same_rankings": {"stage": "duo_eval", "again": "duo_again"}}
    assert findings(config, **expected)[0][0]
    control = {"stage": "one_order", "again": "one_order_again"}
    assert findings(config, same_rankings={**control, "same": False})[0][0]
    assert not findings(config, same_rankings=control)[0][0]


def test_the_top_is_ranked_again_and_the_rest_stays():
    example = RankingExample("q", "query", tuple(Candidate(d, f"text {d}", rank=i) for i, d in enumerate("abcd", 1)))
    before = Ranking("q", tuple("dcba"), {"d": 0.4, "c": 0.3, "b": 0.2, "a": 0.1})
    [short] = shortened([example], {"q": before}, 2)
    assert [(c.docid, c.rank, c.score) for c in short.candidates] == [("d", 1, 0.4), ("c", 2, 0.3)]
    again = Ranking("q", ("c", "d"), {"c": 9.0, "d": 8.0}, num_prompts=2, rounds=1, raw_scores={"c": 9.0, "d": 8.0})
    [whole] = completed([again], {"q": before})
    assert whole.docids == tuple("cdba") and whole.scores == {"c": 4.0, "d": 3.0, "b": 2.0, "a": 1.0}
    assert (whole.num_prompts, whole.rounds, whole.raw_scores) == (2, 1, None)
    every = replace(again, docids=tuple("cdba"), scores=whole.scores)
    assert completed([every], {"q": before}) == [every]
    assert shortened([example], {}, None) == [example]


def test_a_prompt_that_no_query_gives_is_refused(config):
    write_jsonl(
        Path(config.data.path),
        [{**row, "qrels": {}} for row in read_jsonl(Path(config.data.path))],
    )
    with pytest.raises(ValueError, match=r"stages.mono: no training query has candidates of different grades"):
        run(config, "mono")


REFUSED = [
    ("duo_eval", {"paradigm": ""}, "stages.duo_eval.model=duo was trained on pairwise prompts, and is asked with"),
    (
        "mono_eval",
        {"paradigm": "sym_sum"},
        "stages.mono_eval.model=mono was trained on pointwise prompts, and is asked",
    ),
    ("mono_eval", {"engine": None}, "must be a stage that leaves a model"),
    ("mono_eval", {"model": "mono@5"}, "a stage of kind cross_encoder has no checkpoints"),
    (
        "mono_eval",
        {"engine": EngineConfig(kind="cross_encoder", args={"model": "x"})},
        "takes the place of engine.args",
    ),
    ("duo_eval", {"model": "model"}, "a cross-encoder of another origin scores one document, not two"),
    ("duo_eval", {"candidates": "later"}, "candidates"),
    (
        "duo_eval",
        {"split": "dev"},
        "stages.duo_eval.candidates names 'mono_eval', which ranks split 'test' and not 'dev'",
    ),
    ("duo", {"paradigm": "listwise"}, "stages.duo.paradigm must be pointwise, or pairwise with mode=scoring"),
    ("mono", {"model": "/no/such/folder"}, "stages.mono.model='/no/such/folder': there is no config.json"),
]


@pytest.mark.parametrize(("name", "settings", "says"), REFUSED)
def test_what_cannot_work_is_refused_before_the_run(config, name, settings, says):
    config.stages[name] = replace(config.stages[name], **settings)
    with pytest.raises((ValueError, LookupError, FileNotFoundError)) as caught:
        Experiment.of(config)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"depth": 5}, "depth=5 is of the order that candidates names"),
        ({"candidates": "mono_eval", "model": "first_stage"}, "is ranked again by a model alone"),
        ({"candidates": "mono_eval", "depth": 1}, "depth must be at least 2"),
    ],
)
def test_settings_of_a_second_stage_that_conflict_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        RerankStage(kind="rerank", **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 10, "micro_batch": 4}, "batch_size=10 must be a multiple of micro_batch=4"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"warmup_ratio": 1.5}, "warmup_ratio must be from 0 to 1"),
        ({"max_steps": -1}, "max_steps must be at least 0"),
    ],
)
def test_values_of_a_training_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        CrossEncoderStage(kind="cross_encoder", **settings)


CHECKS = [
    ({"cascade": {"stages": ["mono_eval"]}}, "stages must name two rerank stages or more"),
    ({"cascade": {"stages": ["duo_eval", "mono_eval"]}}, "'duo_eval' is followed by a stage that does not rank its"),
    ({"same_rankings": {"stage": "duo_eval", "again": "duo_eval"}}, "show the documents in the same order"),
    ({"same_rankings": {"stage": "duo_eval", "again": "one_order_again"}}, "differ in more than the order shown"),
]


@pytest.mark.parametrize(("checks", "says"), CHECKS)
def test_checks_of_stages_that_do_not_fit_are_refused(config, checks, says):
    config.stages["mechanism"] = CheckStage(kind="check", checks=checks)
    with pytest.raises(ValueError, match=says):
        Experiment.of(config)


def test_the_cost_of_a_second_stage_includes_the_first(config):
    folder = Path(config.run_dir) / "mono_eval"
    folder.mkdir(parents=True)
    write_json(folder / "summary.json", {"cost": {"calls": 6, "rounds": 1, "prompt_tokens": None, "seconds": 2.0}})
    found = cost_behind(config, config.stages["duo_eval"], Cost(calls=4, rounds=1, prompt_tokens=10, seconds=1.5))
    assert found == Cost(calls=10, rounds=2, prompt_tokens=None, completion_tokens=0, seconds=3.5)


def test_equal_scores_of_the_earlier_stage_stay_equal():
    """A run file has 2 and 1 in their place; a fusion reads the scores."""
    example = RankingExample("q", "query", (Candidate("a", "x", rank=1), Candidate("b", "x", rank=2)))
    ranking = rank_by_scores(example, {"a": 0.5, "b": 0.5}, num_prompts=2, num_malformed=0, num_fallbacks=0)
    [found] = shortened([example], {"q": ranking}, None)
    assert [(c.docid, c.score) for c in found.candidates] == [("a", 0.5), ("b", 0.5)]
    assert list(ranking.scores.values()) == [2.0, 1.0]
