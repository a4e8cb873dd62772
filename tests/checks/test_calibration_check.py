"""Calibration of finished runs, against the evaluator's own function, and against planted miscalibration."""

import math
from pathlib import Path

import numpy as np
import pytest
from support.checked_runs import findings, made

from rl_rerank.data import prepare
from rl_rerank.evaluation.functions.calibration import expected_calibration_error, reliability_curve
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import write_jsonl
from rl_rerank.stages.check.finished_run import Run
from rl_rerank.stages.check.spec import CheckStage
from rl_rerank.stages.plugins import Plugins
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank_checks.calibration import Calibration, error

CHECK = {"stage": "good", "others": ["good", "bad"]}


@pytest.fixture
def config(tmp_path):
    """Of 12 candidates of a query, three are relevant."""
    config = made(tmp_path, queries=80)
    store = prepare(config.data, Path(config.run_dir) / "data")
    for name in ("good", "bad"):
        config.stages[name] = RerankStage(kind="rerank")
    scored(config, store, "good", lambda grade, rng: rng.uniform(-0.2, 0.2) + (1.5 if grade else -1.5))
    scored(config, store, "bad", lambda grade, rng: rng.uniform(-0.2, 0.2) + (9 if grade else 6))
    return config


def scored(config, store, stage, score):
    rng, rows = np.random.default_rng(0), []
    for qid, grades in store.qrels("test").items():
        rows.append({"qid": qid, "raw_scores": {docid: score(grade, rng) for docid, grade in grades.items()}})
    write_jsonl(Path(config.run_dir) / stage / "rankings.jsonl", rows)


def test_probabilities_that_are_too_high_are_found(config):
    # sigmoid(-1.5) = .18 for 9 of 12, sigmoid(1.5) = .82 for 3 of 12: .18 from 0 and from 1. Of the others, all are
    # above .99, and a quarter is relevant.
    [(passed, said)] = findings(config, calibration=CHECK)
    assert passed and said.startswith("0.18") and "and 0.74" in said and "40 queries" in said
    [(passed, said)] = findings(config, calibration={"stage": "bad", "others": ["good"]})
    assert not passed


def test_equal_systems_are_not_told_apart(config):
    store = prepare(config.data, Path(config.run_dir) / "data")
    scored(config, store, "bad", lambda grade, rng: rng.uniform(-0.2, 0.2) + (1.5 if grade else -1.5))
    [(passed, said)] = findings(config, calibration=CHECK)
    assert not passed and "difference from +0.000 to +0.000" in said


def test_the_error_is_that_of_the_evaluator(config):
    store = prepare(config.data, Path(config.run_dir) / "data")
    rng, seen = np.random.default_rng(1), []

    def drawn(grade, _):
        seen.append((rng.normal(), grade > 0))
        return seen[-1][0]

    scored(config, store, "good", drawn)
    gaps = Calibration("good", ["bad"])._gaps(Run(config, Plugins(config)), "good")
    found = error(np.stack(list(gaps.values())), np.ones((1, len(gaps))))[0]
    curve = reliability_curve([1 / (1 + math.exp(-score)) for score, _ in seen], [relevant for _, relevant in seen])
    assert found == pytest.approx(expected_calibration_error(curve))


def test_few_queries_say_nothing(tmp_path):
    config = made(tmp_path, queries=20)
    store = prepare(config.data, Path(config.run_dir) / "data")
    for name in ("good", "bad"):
        config.stages[name] = RerankStage(kind="rerank")
        scored(config, store, name, lambda grade, rng: float(grade))
    assert findings(config, calibration=CHECK) == [(False, "10 queries: too few to compare")]


@pytest.mark.parametrize(
    ("check", "settings", "says"),
    [
        (CHECK, {"paradigm": "listwise"}, "'bad' ranks with 'listwise', whose scores are no log-odds"),
        (CHECK, {"split": "dev"}, "'good' ranks split 'test', 'bad' 'dev'"),
        ({"stage": "good", "others": ["nowhere"]}, {}, "names the rerank stage 'nowhere'"),
        ({"stage": "good", "others": ["good"]}, {}, "others must name at least one other rerank stage"),
        ({**CHECK, "bins": 0}, {}, "bins must be at least 1; got 0"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_run(config, check, settings, says):
    config.stages["bad"] = RerankStage(kind="rerank", **settings)
    config.stages["mechanism"] = CheckStage(kind="check", checks={"calibration": check})
    with pytest.raises((LookupError, ValueError), match=says):
        Experiment.of(config)
