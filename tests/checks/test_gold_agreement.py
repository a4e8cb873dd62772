"""Agreement with a gold ranking, on runs whose distance from it is known."""

from pathlib import Path

import numpy as np
import pytest
from support.checked_runs import findings, made

from rl_rerank.data import prepare
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import write_jsonl
from rl_rerank.stages.check.spec import CheckStage
from rl_rerank.stages.rerank.spec import RerankStage


@pytest.fixture
def config(tmp_path):
    config = made(tmp_path, queries=80)
    for stage, noise in (("gold", 0.0), ("near", 1.0), ("far", 5.0)):
        config.stages[stage] = RerankStage(kind="rerank")
        scored(config, stage, noise)
    return config


def scored(config, stage, noise):
    rng, rows = np.random.default_rng(len(stage)), []
    for example in prepare(config.data, Path(config.run_dir) / "data").examples("test"):
        scores = {d: float(place + noise * rng.normal()) for place, d in enumerate(example.docids)}
        rows.append({"qid": example.qid, "docids": list(scores), "scores": {}, "raw_scores": scores})
    write_jsonl(Path(config.run_dir) / stage / "rankings.jsonl", rows)


def agreement(config, *comparisons):
    return findings(config, gold_agreement={"gold": "gold", "comparisons": [list(pair) for pair in comparisons]})


def test_the_nearer_ranking_agrees_more(config):
    found = agreement(config, ("near", "far"), ("far", "near"), ("near", "near"))
    assert [passed for passed, _ in found] == [True, False, False]
    assert all("on 40 queries" in said for _, said in found)
    [(_, said)] = agreement(config, ("gold", "near"))
    assert said.startswith("1.000 and 0.") and "100.0% and" in said


def test_a_reversed_order_has_no_pair_right(config):
    rows = []
    for example in prepare(config.data, Path(config.run_dir) / "data").examples("test"):
        scores = {d: float(-place) for place, d in enumerate(example.docids)}
        rows.append({"qid": example.qid, "docids": list(scores), "scores": scores, "raw_scores": None})
    write_jsonl(Path(config.run_dir) / "far/rankings.jsonl", rows)
    [(passed, said)] = agreement(config, ("gold", "far"))
    assert passed and said.startswith("1.000 and -1.000") and said.endswith("100.0% and 0.0% of the pairs in order")


def test_few_queries_say_nothing(tmp_path):
    config = made(tmp_path, queries=20)
    for stage in ("gold", "near", "far"):
        config.stages[stage] = RerankStage(kind="rerank")
        scored(config, stage, 0.5)
    assert agreement(config, ("near", "far")) == [(False, "10 queries: too few to compare")]


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ({"gold": "gold", "comparisons": []}, "comparisons must be pairs"),
        (
            {"gold": "gold", "comparisons": [["near"]]},
            r"comparisons must be pairs \[better, worse\]; got \[\['near'\]\]",
        ),
        ({"gold": "gold", "comparisons": [["near", "nowhere"]]}, "names the rerank stage 'nowhere'"),
        ({"gold": "gold", "comparisons": [["near", "dev"]]}, "'dev' ranks split 'dev', 'gold' 'test'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_run(config, check, says):
    config.stages["dev"] = RerankStage(kind="rerank", split="dev")
    config.stages["mechanism"] = CheckStage(kind="check", checks={"gold_agreement": check})
    with pytest.raises((LookupError, ValueError), match=says):
        Experiment.of(config)
