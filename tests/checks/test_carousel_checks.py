"""Checks of carousel runs, on simulated visits with planted rankings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.checked_runs import findings

from rl_rerank.config import Config, DataConfig
from rl_rerank.data import prepare
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io import trec
from rl_rerank.stages.check.spec import CheckStage
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.types import Candidate, Ranking, RankingExample

pytestmark = pytest.mark.slow

SIZES = {"users": 60, "screens": 25, "rows": 3, "columns": 4, "page": 2}


def simulated(folder: Path, **params: float) -> Config:
    data = DataConfig(source="carousels", depth=12, params={**SIZES, **params})
    return Config(run_dir=str(folder / "run"), data=data)


def rank(config: Config, stage: str, score: Callable[[RankingExample, Candidate], float]) -> None:
    """Plant a run that ranks the test visits by this score."""
    rankings = []
    for example in prepare(config.data, Path(config.run_dir) / "data").examples("test"):
        order = tuple(c.docid for c in sorted(example.candidates, key=lambda c: -score(example, c)))
        rankings.append(Ranking(example.qid, order, {docid: float(-n) for n, docid in enumerate(order)}))
    config.stages[stage] = RerankStage(kind="rerank")
    (Path(config.run_dir) / stage).mkdir(exist_ok=True)
    trec.write_run(Path(config.run_dir) / stage / "run.trec", rankings, stage)


def test_examination_is_found_where_it_differs_between_places_and_not_where_it_does_not(tmp_path):
    prepare((config := simulated(tmp_path / "a")).data, Path(config.run_dir) / "data")
    found = findings(config, examination={})
    assert [passed for passed, _ in found] == [True] * 3
    assert "over 12 places" in found[0][1] and "perplexity" in found[1][1]
    alike = simulated(tmp_path / "b", row_decay=1, column_decay=1, swipe=1)
    prepare(alike.data, Path(alike.run_dir) / "data")
    # Everything is examined: to know this of each place explains no click.
    assert [passed for passed, _ in findings(alike, examination={})] == [True, False, False]
    (too_far, _), *_ = findings(config, examination={"within": 0.0001})
    assert not too_far


def test_snips_prefers_the_true_order_which_plain_clicks_do_not(tmp_path):
    config = simulated(tmp_path, column_decay=0.5)
    prepare(config.data, Path(config.run_dir) / "data")
    rank(config, "truth", lambda example, c: example.qrels[c.docid] - float(c.features["column"]) / 100)
    # The order of the screen's columns, and the same from the right.
    rank(config, "left", lambda _, c: -float(c.features["column"]))
    rank(config, "right", lambda _, c: float(c.features["column"]))
    found = findings(config, snips_gain={"comparisons": [["truth", "left"], ["left", "truth"], ["left", "left"]]})
    assert [passed for passed, _ in found] == [True, False, False]
    assert "difference +0.000 [+0.000, +0.000]" in found[2][1]
    # Relevance is the same in all columns, so neither order is better; plain clicks (theta of 1) prefer the left.
    pair = {"comparisons": [["left", "right"]]}
    [(weighted, _)] = findings(config, snips_gain={**pair, "propensity": "theta"})
    [(plain, _)] = findings(config, snips_gain={**pair, "floor": 1.0})
    assert (weighted, plain) == (False, True)


def test_what_cannot_be_compared_is_refused(tmp_path):
    config = simulated(tmp_path)
    config.stages = {"a": RerankStage(kind="rerank"), "b": RerankStage(kind="rerank", split="dev")}
    config.stages["mechanism"] = CheckStage(kind="check", checks={"snips_gain": {"comparisons": [["a", "b"]]}})
    with pytest.raises(ValueError, match="'a' ranks split 'test', 'b' 'dev'"):
        Experiment.of(config)
    config.stages["mechanism"] = CheckStage(kind="check", checks={"snips_gain": {"comparisons": [["a"]]}})
    with pytest.raises(ValueError, match=r"comparisons must be pairs \[better, worse\]"):
        Experiment.of(config)


def test_a_page_with_holes_is_refused_by_its_query(tmp_path):
    config = simulated(tmp_path, users=30, screens=15)
    config.data.depth = 7
    prepare(config.data, Path(config.run_dir) / "data")
    with pytest.raises(ValueError, match=r"qid '.*': candidates must fill 3 rows of 4 columns.*data\.depth may be too"):
        findings(config, examination={})
