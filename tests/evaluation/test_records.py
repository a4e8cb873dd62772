"""The records of an evaluation and the file that holds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_rerank.evaluation.records import Comparison, FormatShare, Metrics, RewardTrend, RunRow, paired
from rl_rerank.io.files import write_json

KEYS = [
    "provider",
    "measures",
    "rows",
    "references",
    "per_query",
    "missing",
    "protocols",
    "forced",
    "comparisons",
    "over_seeds",
    "format",
    "training",
]


@pytest.mark.slow
def test_the_file_keeps_its_layout(metrics):
    assert list(metrics) == KEYS
    measured = {"label", "mean", "interval", "num_queries", "malformed", "fallback"}
    assert set(metrics["rows"][0]) == {"run", "role", "cost", *measured}
    assert set(metrics["references"][0]) == {"role", "num_missing", *measured}
    assert set(metrics["over_seeds"]) == {"rows", "comparisons"}
    assert set(metrics["training"]["grpo"]) == {
        "reward_first_third",
        "reward_last_third",
        "p_value",
        "steps",
        "control",
    }


@pytest.mark.slow
def test_records_and_json_are_the_same(finished, metrics):
    path = Path(finished.run_dir) / "evaluate" / "metrics.json"
    read = Metrics.read(path, "per_query", "protocols")
    assert read.to_json() == metrics
    assert Metrics.from_json(json.loads(json.dumps(read.to_json()))) == read
    assert isinstance(read.rows[0], RunRow) and isinstance(read.comparisons[0], Comparison)
    assert isinstance(read.training["grpo"], RewardTrend)
    assert isinstance(read.format["trained"]["listwise"], FormatShare)
    cost, made_under = read.rows[1].cost, read.protocols["trained"]
    assert cost is not None and cost.tokens == 105 * 40
    assert made_under is not None and made_under.paradigm == "pointwise"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"measures": ["AP"]}, "does not have the layout of an evaluation ('rows')"),
        ({"rows": []}, "missing 1 required keyword-only argument: 'measures'"),
        (
            {"measures": ["AP"], "rows": [{"run": "a", "label": "A"}]},
            "missing 1 required keyword-only argument: 'mean'",
        ),
        ({"measures": ["AP"], "rows": [], "version": 2}, "unexpected keyword argument 'version'"),
        ({"measures": ["AP"], "rows": ["a"]}, "does not have the layout of an evaluation"),
        ({"measures": ["AP"], "rows": [], "training": []}, "does not have the layout of an evaluation"),
        ([], "does not have the layout of an evaluation"),
        ({"measures": ["AP"], "rows": []}, "does not say what each query's values are"),
    ],
)
def test_another_layout_is_refused_with_the_stage_to_run(tmp_path, content, reason):
    path = tmp_path / "measure" / "metrics.json"
    write_json(path, content)
    with pytest.raises(ValueError) as caught:
        Metrics.read(path, "per_query")
    assert str(caught.value).startswith(f"{path} ") and reason in str(caught.value)
    assert str(caught.value).endswith("; run the stage 'measure' again")


def test_a_share_and_a_gain_by_hand():
    assert FormatShare(prompts=4, well_formed=1).share == 0.25
    assert FormatShare(prompts=0, well_formed=0).share is None
    # A rise of the last relevant document's rank is a loss; by itself significant, adjusted not.
    test = Comparison("a", "b", "LastRel", 1.0, (0.5, 1.5), 0.04, 0.04, p_value_holm=0.08)
    assert (test.is_gain, test.is_significant) == (False, False)


def test_values_are_paired_by_the_queries_of_both():
    before = {"q1": {"AP": 0.1}, "q2": {"AP": 0.2}}
    assert paired(before, {"q2": {"AP": 0.5}, "q3": {"AP": 1.0}}, "AP") == {"q2": (0.2, 0.5)}
