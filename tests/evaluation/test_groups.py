"""Groups of queries: their means, the macro average, its interval, and what a page shows of them."""

import json
from pathlib import Path

import pytest

from rl_rerank.evaluation.groups import UNGROUPED, group_means, members
from rl_rerank.evaluation.records import Metrics
from rl_rerank.evaluation.statistics import stratified_intervals
from rl_rerank.evaluation.table import table
from rl_rerank.io.files import read_jsonl, write_jsonl
from rl_rerank.io.markdown import plain
from rl_rerank.stages.evaluate import run as evaluate_stage
from rl_rerank.stages.evaluate.spec import EvaluateStage
from rl_rerank.stages.report import run as report_stage

SMALL = "small <b>group</b>"


def values(**of_query: float) -> dict[str, dict[str, float]]:
    return {qid: {"AP": value, "NumRel": 3.0} for qid, value in of_query.items()}


def test_the_macro_average_by_hand():
    groups = {"q1": "b", "q2": "a", "q3": "a", "q4": "a"}
    means = group_means("x", [values(q1=0.2, q2=1, q3=0.5, q4=0)], groups, 1)
    # b: .2, a: (1 + .5 + 0) / 3 = .5; their mean is .35, while the mean over queries is 1.7 / 4 = .425.
    assert means is not None
    assert means.mean == {"AP": {"b": pytest.approx(0.2), "a": pytest.approx(0.5)}}
    assert means.macro == {"AP": pytest.approx(0.35)}
    assert means.sizes == {"b": 1, "a": 3}
    assert list(means.sizes) == ["b", "a"]


def test_a_mean_over_seeds_has_a_macro_average_and_no_interval():
    groups = {"q1": "a", "q2": "b"}
    means = group_means("x", [values(q1=0, q2=1), values(q1=0.5, q2=1)], groups, 1)
    assert means is not None
    # a: .25 over both seeds, b: 1.
    assert means.macro == {"AP": pytest.approx(0.625)}
    assert means.interval == {}


def test_queries_without_a_group_are_one_where_others_have_one_and_without_any_there_is_nothing():
    assert members(["q1", "q2"], {"q2": "a"}) == {UNGROUPED: ["q1"], "a": ["q2"]}
    assert group_means("x", [values(q1=1.0)], {}, 1) is None


def test_the_stratified_interval_by_hand():
    # Of {0, 1} a resample has the mean 0, .5 or 1 with 1/4, 1/2 and 1/4; the other stratum is 1 always. Their mean is
    # .5, .75 or 1: the 2.5% and 97.5% quantiles are the outer ones, those of 30% and 70% both the middle one.
    strata = [[[0.0, 1.0]], [[1.0, 1.0, 1.0]]]
    assert stratified_intervals(strata, 1) == [(0.5, 1.0)]
    assert stratified_intervals(strata, 1, level=0.4) == [(0.75, 0.75)]


def test_strata_are_resampled_apart_and_never_mixed():
    # Nothing varies inside of a stratum, so nothing varies at all.
    assert stratified_intervals([[[0.0] * 5], [[1.0] * 9]], 1) == [(0.5, 0.5)]
    # Both strata are 0 in 1/16 of the draws if they are independent, and in 1/4 if they are drawn alike: the 10%
    # quantile is .25 then, or 0.
    [(low, high)] = stratified_intervals([[[0.0, 1.0]], [[0.0, 1.0]]], 1, level=0.8)
    assert (low, high) == (0.25, 0.75)


def test_intervals_of_several_measures_are_those_of_each_by_itself():
    one, other = [0.1, 0.7, 0.4], [0.9, 0.2, 0.3]
    both = stratified_intervals([[one, other], [other, one]], 3)
    assert both == [*stratified_intervals([[one], [other]], 3), *stratified_intervals([[other], [one]], 3)]


@pytest.fixture
def grouped(large_experiment):
    """32 queries, of which the first 30 are one group and two another."""
    path = Path(large_experiment.data.path) / "queries.jsonl"
    rows = read_jsonl(path)
    write_jsonl(path, [{**row, "group": "large" if n < 30 else SMALL} for n, row in enumerate(rows)])
    stage = large_experiment.stages["evaluate"]
    assert isinstance(stage, EvaluateStage)
    evaluate_stage.run(large_experiment, "evaluate", stage)
    return large_experiment


@pytest.mark.slow
def test_an_evaluation_has_the_means_by_group_of_every_row(grouped):
    folder = Path(grouped.run_dir) / "evaluate"
    content = json.loads((folder / "metrics.json").read_text())
    found = {means["label"]: means for means in content["groups"]}
    assert list(found) == [*(row["label"] for row in content["rows"]), *(r["label"] for r in content["references"])]
    # The trained model has 1, but for every eighth query 0: q7, q15 and q23 of the large group, q31 of the small one.
    trained = found["trained | GRPO"]
    assert trained["sizes"] == {"large": 30, SMALL: 2}
    assert trained["mean"]["nDCG@10"] == {"large": pytest.approx(27 / 30), SMALL: 0.5}
    assert trained["macro"]["nDCG@10"] == pytest.approx(0.7)
    low, high = trained["interval"]["nDCG@10"]
    assert 0.4 < low < 0.5 and 0.9 < high <= 1
    assert found["BM25"]["interval"]["nDCG@10"] == pytest.approx([0.5, 0.5])
    read = Metrics.read(folder / "metrics.json")
    assert read.to_json() == content
    text = (folder / "table.md").read_text()
    small = plain(SMALL)
    assert f"| nDCG@10 by group | macro average [95% interval] | large (30 queries) | {small} (2 queries) |" in text
    assert f"0.7000 [{low:.4f}, {high:.4f}] | 0.9000 | 0.5000 |" in text


@pytest.mark.slow
def test_a_page_shows_groups_of_enough_queries_and_the_macro_average(grouped):
    report_stage.run(grouped, "report", grouped.stages["report"])
    html = (Path(grouped.run_dir) / "report" / "index.html").read_text()
    assert "small &lt;b&gt;group&lt;/b&gt;" in html and SMALL not in html
    part = html.partition("<h2>By group</h2>")[2].partition("</table>")[0]
    row = part.partition("trained | GRPO")[2].partition("</tr>")[0]
    assert "0.7000 [" in row and "<td>0.9000</td>" in row
    assert "<td>2 queries: too few to compare</td>" in row and "0.5000</td>" not in row
    page = table(Metrics.read(Path(grouped.run_dir) / "evaluate" / "metrics.json"), is_page=True)
    assert "| 0.9000 | 2 queries: too few to compare |" in page


@pytest.mark.slow
def test_an_evaluation_without_groups_has_no_such_part(large):
    content = json.loads((Path(large.run_dir) / "evaluate" / "metrics.json").read_text())
    assert "groups" not in content
    assert "By group" not in (Path(large.run_dir) / "report" / "index.html").read_text()
