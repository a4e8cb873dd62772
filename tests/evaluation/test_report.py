"""The report of a small finished experiment whose every text is hostile."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest
from support.report_page import read

from rl_rerank.evaluation.enough import MIN_QUERIES
from rl_rerank.pages.figures import changes, moving_average
from rl_rerank.report.queries import MAX_QUERIES, choose_queries, query_card
from rl_rerank.report.training import choose_samples, few_dev_queries, open_orders, overlaid_plots, training_plots
from rl_rerank.stages.evaluate import run as evaluate_stage
from rl_rerank.stages.report import run as report_stage
from rl_rerank.types import Candidate, RankingExample

pytestmark = pytest.mark.slow  # a collection is ranked and pages are drawn


@pytest.fixture
def html(large):
    return (Path(large.run_dir) / "report" / "index.html").read_text()


def test_what_comes_from_data_cannot_run(html):
    reader = read(html)
    assert {"script", "iframe", "object", "form", "link", "base"}.isdisjoint(reader.tags)
    assert reader.handlers == []
    # Only the plots are images: the titles' <img> are text.
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    text = " ".join(reader.texts)
    assert "query 0 <script>alert('q')</script> & $\\frac{" in text
    assert "Title 2 <img src=x onerror=alert(1)>" in text


def test_the_page_needs_nothing_from_outside(html):
    assert "http://" not in html and "https://" not in html
    assert "@import" not in html and "url(" not in html


def test_the_first_screen_says_what_is_better_by_how_much_and_how_sure(html):
    before_table = html[: html.index("<table")]
    assert "trained | GRPO is better than BM25" in before_table
    assert "+0.375" in before_table
    assert "nDCG@10 on 32 queries, 95% interval" in before_table
    assert "is worse than BM25" in before_table


def test_every_part_is_on_the_page(html):
    reader = read(html)
    text = " ".join(" ".join(reader.texts).split())
    for part in ("Systems", "Training", "Form of the answers", "Queries", "Provenance", "Resolved configuration"):
        assert part in text
    assert "oracle: best order of the candidates" in text
    assert "4 missing" in text
    assert "9 / 10" in text and "90.0%" in text
    assert "trained | GRPO beats BM25 on 28, ties on 0 and loses on 4." in text
    assert "control: rewards permuted within groups" in text
    assert reader.tags.count("details") >= 8


@pytest.mark.slow
def test_systems_of_several_seeds_have_their_row_and_their_tests(large_experiment):
    experiment = large_experiment
    experiment.stages["evaluate"] = dataclasses.replace(
        experiment.stages["evaluate"], seeds={"GRPO": ["trained", "untrained"]}, comparisons=[["GRPO", "first"]]
    )
    for name, module in (("evaluate", evaluate_stage), ("report", report_stage)):
        module.run(experiment, name, experiment.stages[name])
    html = (Path(experiment.run_dir) / "report" / "index.html").read_text()
    before_table = html[: html.index("<table")]
    assert "GRPO (mean of 2 seeds)" in before_table and "on 32 queries" in before_table
    assert "GRPO (mean of 2 seeds)" in html[html.index("<table") : html.index("</table>")]


def test_plots_lie_beside_the_page_as_png(large, html):
    directory = Path(large.run_dir) / "report"
    names = {path.stem for path in directory.glob("*.png")}
    assert {"intervals", "changes", "well-formed", "grpo-loss", "grpo-reward", "grpo-terms"} <= names
    assert {"grpo-grad_norm", "grpo-well_formed", "grpo-completions-mean_length", "grpo-kl"} <= names
    assert all((directory / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)
    # Twice each: for light and for dark pages
    assert len(re.findall("data:image/png;base64,", html)) == 2 * len(names)


def test_a_single_term_is_not_drawn_beside_the_reward_that_it_is():
    rows = [{"step": 1, "reward": 0.5, "reward/ndcg": 0.5}, {"step": 2, "reward": 0.6, "reward/ndcg": 0.6}]
    assert [plot.name for plot in training_plots("grpo", rows)] == ["grpo-reward"]


def test_parts_that_are_not_there_are_left_out(experiment):
    stages = experiment.stages
    experiment.stages = {name: stages[name] for name in ("first", "evaluate", "report")}
    stages["evaluate"].comparisons = []
    evaluate_stage.run(experiment, "evaluate", stages["evaluate"])
    report_stage.run(experiment, "report", stages["report"])
    html = (Path(experiment.run_dir) / "report" / "index.html").read_text()
    read(html)
    for part in ("Training", "Form of the answers", 'class="verdicts"', "<img"):
        assert part not in html
    assert "query 3" in html


def test_a_report_without_its_evaluation_names_what_is_missing(experiment):
    with pytest.raises(FileNotFoundError, match="run the stage 'evaluate' first"):
        report_stage.run(experiment, "report", experiment.stages["report"])
    del experiment.stages["evaluate"]
    with pytest.raises(ValueError, match="no evaluate stage stands before it"):
        report_stage.run(experiment, "report", experiment.stages["report"])


def test_a_report_is_about_the_last_evaluation_before_it(experiment):
    stages = experiment.stages
    evaluate_stage.run(experiment, "evaluate", stages["evaluate"])
    later = dataclasses.replace(stages["evaluate"])  # has not run
    experiment.stages = {**stages, "later": later}
    report_stage.run(experiment, "report", stages["report"])
    assert (Path(experiment.run_dir) / "report/index.html").is_file()
    experiment.stages = {"report": stages["report"], "later": later}
    with pytest.raises(ValueError, match=r"stages\.report: no evaluate stage stands before it"):
        report_stage.run(experiment, "report", stages["report"])


def test_many_queries_are_cut_to_either_end_of_the_change():
    values = {f"q{i:03}": 0.5 for i in range(100)}
    chosen = choose_queries(values, {qid: i / 100 for i, qid in enumerate(values)})
    assert len(chosen) == MAX_QUERIES
    assert (chosen[0], chosen[29], chosen[30], chosen[-1]) == ("q099", "q070", "q029", "q000")


def test_a_query_card_shows_ranks_grades_and_what_is_not_among_the_candidates():
    candidates = tuple(Candidate(docid, text="word " * 200) for docid in "abc")
    example = RankingExample("q", "what", candidates, qrels={"a": 0, "c": 2, "z": 1})
    card = query_card(example, [["a", "b", "c"], ["c", "a"]], [0.1, 0.9], 0.8, decisive=1)
    assert [(d.docid, d.grade, d.ranks) for d in card.documents] == [
        ("c", 2, (3, 1)),
        ("a", 0, (1, 2)),
        ("b", None, (2, None)),
    ]
    assert card.num_absent == 1
    assert len(card.documents[0].snippet) < 220


def test_samples_are_the_best_and_the_worst_of_three_steps():
    rows = [
        {"step": step, "qid": "q", "query": "text of q", "completion": "x", "status": "ok", "reward": reward}
        for step in range(1, 6)
        for reward in (0.2, 0.9, 0.1)
    ]
    samples = choose_samples(rows)
    assert [(s.step, s.reward) for s in samples] == [(1, 0.9), (1, 0.1), (3, 0.9), (3, 0.1), (5, 0.9), (5, 0.1)]
    assert samples[0].query == "text of q"
    assert choose_samples([]) == ()


def test_a_training_shows_the_curves_that_were_logged():
    dev = {"dev/nDCG@10": 0.4, "dev/queries": 32.0}
    rows = [{"step": 1, "loss": 0.5, "reward": None}, {"step": 2, "loss": float("nan"), **dev}]
    assert [plot.name for plot in training_plots("sft", rows)] == ["sft-loss", "sft-dev"]
    assert training_plots("sft", []) == ()


def test_a_dev_value_that_rests_on_the_order_of_ties_is_warned_of():
    rows = [{"step": 5, "dev/nDCG@10": 0.4, "dev/expected_nDCG@10": 0.4, "dev/queries": 30.0}, {"step": 6, "loss": 0.1}]
    assert list(open_orders("grpo", rows)) == []
    [warning] = open_orders("grpo", [*rows, {"step": 10, "dev/nDCG@10": 0.45, "dev/expected_nDCG@10": 0.43}])
    assert warning.startswith("grpo: nDCG@10 on dev queries is 0.4500 at step 10")
    assert "0.4300 in expectation" in warning


@pytest.mark.parametrize("count", [{"dev/queries": 29.0}, {}])
def test_dev_values_of_few_queries_are_not_drawn(count):
    dev = {"dev/nDCG@10": 0.45, "dev/expected_nDCG@10": 0.43, "dev/first_stage": 0.4, "dev/malformed": 0.1, **count}
    rows = [{"step": 1, "loss": 0.5, "dev/before": 0.4}, {"step": 2, "loss": 0.4, **dev}]
    assert [plot.name for plot in training_plots("grpo", rows)] == ["grpo-loss", "grpo-dev-shares"]
    titles = [plot.title for plot in overlaid_plots("grpo", {"a": rows, "b": rows})]
    assert titles == ["loss", "dev/malformed"]
    assert list(open_orders("grpo", rows)) == []
    [said] = [few_dev_queries("grpo", rows)]
    assert said == f"grpo, dev set: {29 if count else 0} queries: too few to compare."
    assert few_dev_queries("sft", [{"step": 1, "loss": 0.5}]) == ""


def test_a_page_shows_no_value_of_few_queries(finished):
    run_dir = Path(finished.run_dir)
    reader = read((run_dir / "report" / "index.html").read_text())
    text = " ".join(" ".join(reader.texts).split())
    assert "trained | GRPO against BM25 8 queries: too few to compare" in text
    # Three rows and the oracle, two comparisons, and the change that the queries are sorted by.
    assert text.count("8 queries: too few to compare") == 7
    # What stands in metrics.json, as a page would print it: means, the difference, a query's values.
    for value in ("0.8750", "0.5000", "0.4307", "1.0000", "+0.375", "0.500", "1.00", "0.43"):
        assert value not in text
    assert "is worse than" not in text and "beats BM25" not in text
    names = {path.stem for path in (run_dir / "report").glob("*.png")}
    assert names.isdisjoint({"intervals", "changes", "frontier-tokens", "frontier-seconds"})
    assert "97.5%" not in text and "2.5%" in text and "9 / 10" in text  # shares of answers are no such values
    assert "0.8750" in (run_dir / "evaluate" / "table.md").read_text()  # the terminal's


def test_a_moving_average_by_hand():
    assert moving_average([1.0, 2.0, 6.0, 1.0], 3) == [1.0, 1.5, 3.0, 3.0]


def test_the_same_values_make_the_same_file():
    pairs = [(0.1, 0.4), (0.9, 0.3), (0.5, 0.5)]
    one, other = (changes("x", "x", pairs, "nDCG@10", "before $\\frac{", "after") for _ in range(2))
    assert (one.light, one.dark) == (other.light, other.dark)
    assert one.light != one.dark


def test_the_page_of_systems_shows_no_value_of_few_queries(metrics, large, monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(root / "benchmarks")  # its scripts import each other
    systems = importlib.import_module("systems_page")
    of_rows = dataclasses.replace(systems.SYSTEMS[0], stages=("untrained", "trained"))
    assert systems.results(of_rows, metrics) == ["Held-out queries of the data at hand: 8 queries: too few to compare."]
    enough = json.loads((Path(large.run_dir) / "evaluate" / "metrics.json").read_text())
    assert systems.results(of_rows, enough)[0].startswith("nDCG@10 on 32 held-out queries")
    text = (root / "docs" / "systems.md").read_text()
    counts = [int(count) for count in re.findall(r"nDCG@10 on (\d+)", text)]
    assert counts and min(counts) >= MIN_QUERIES
