"""The evaluate stage on a small finished experiment."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest

from rl_rerank.config import Config, FusionConfig, TunedWeight
from rl_rerank.evaluation.fusion_weight import WEIGHTS, ChosenWeight
from rl_rerank.evaluation.records import Metrics
from rl_rerank.evaluation.table import table
from rl_rerank.io.files import write_json
from rl_rerank.stages.evaluate import run as evaluate_stage
from rl_rerank.stages.evaluate.spec import EvaluateStage
from rl_rerank.stages.report import run as report_stage
from rl_rerank.stages.rerank.spec import RerankStage

pytestmark = pytest.mark.slow  # all of them rank and evaluate a collection

# The relevant document stands third in the first stage's order, fourth in the untrained model's, first in the trained
# one's, which lacks one query of eight.
FIRST, UNTRAINED = 1 / math.log2(4), 1 / math.log2(5)


def evaluated(experiment, **settings):
    evaluate_stage.run(experiment, "evaluate", EvaluateStage(kind="evaluate", **settings))
    return json.loads((Path(experiment.run_dir) / "evaluate" / "metrics.json").read_text())


def rows(metrics):
    return {row["run"]: row for row in metrics["rows"]}


def test_rows_stand_in_the_order_of_the_stages_with_their_labels(metrics):
    assert [(row["run"], row["label"]) for row in metrics["rows"]][::2] == [
        ("first", "BM25"),
        ("trained", "trained | GRPO"),
    ]


def test_means_are_over_all_judged_queries(metrics):
    assert rows(metrics)["first"]["mean"]["nDCG@10"] == pytest.approx(FIRST)
    assert rows(metrics)["untrained"]["mean"]["nDCG@10"] == pytest.approx(UNTRAINED)
    assert rows(metrics)["trained"]["mean"]["nDCG@10"] == pytest.approx(7 / 8)
    assert metrics["missing"] == {"first": [], "untrained": [], "trained": ["q7"]}
    assert rows(metrics)["trained"]["num_queries"] == 8


def test_intervals_hold_the_mean(metrics):
    low, high = rows(metrics)["trained"]["interval"]["nDCG@10"]
    assert 0.5 <= low < 7 / 8 <= high <= 1
    assert rows(metrics)["first"]["interval"]["nDCG@10"] == pytest.approx([FIRST, FIRST])


def test_malformed_and_fallback_are_shares_of_prompts(metrics):
    assert (rows(metrics)["untrained"]["malformed"], rows(metrics)["untrained"]["fallback"]) == (10 / 40, 5 / 40)
    # The first stage asks no model.
    assert rows(metrics)["first"]["malformed"] is None


def test_comparisons_are_paired_by_query(metrics):
    trained, untrained = metrics["comparisons"]
    assert (trained["system"], trained["baseline"], trained["measure"]) == ("trained", "first", "nDCG@10")
    # Seven gains of 1/2 and one loss of 1/2: 3/8 in the mean. Of the 2^8 sign patterns those with at least 7 equal
    # signs have a sum as large: 2 + 16 of 256.
    assert trained["difference"] == pytest.approx(3 / 8)
    assert trained["p_value"] == pytest.approx(18 / 256)
    assert untrained["p_value"] == pytest.approx(2 / 256)
    assert trained["interval"][0] < 3 / 8 < trained["interval"][1]
    # Two comparisons: the smaller p-value counts twice, the larger once.
    assert trained["p_value_holm"] == pytest.approx(18 / 256)
    assert untrained["p_value_holm"] == pytest.approx(4 / 256)
    test = {"difference", "interval", "p_value", "p_value_t", "p_value_holm"}
    assert set(trained) == {"system", "baseline", "measure", *test}


def test_training_rewards_are_tested_and_the_control_is_named(metrics):
    grpo, control = metrics["training"]["grpo"], metrics["training"]["control"]
    # Slope 0.03: steps 0..3 against 8..11 differ by 8 * 0.03, and the wobbles by (-0.01 + 0 + 0.01 - 0.01 - 0) / 4
    assert grpo["reward_last_third"] - grpo["reward_first_third"] == pytest.approx(0.24 - 0.0025)
    assert grpo["p_value"] < 0.001
    assert (grpo["steps"], grpo["control"], control["control"]) == (12, False, True)
    assert control["p_value"] > 0.05


def test_formats_are_carried_over(metrics):
    assert metrics["format"]["trained"]["listwise"]["well_formed"] == 9
    assert "first" not in metrics["format"]


def test_the_table_has_every_row_and_every_test(finished, metrics):
    text = (Path(finished.run_dir) / "evaluate" / "table.md").read_text()
    assert text == table(Metrics.from_json(metrics))
    lines = text.splitlines()
    assert lines[0].startswith("| system | nDCG@10 [95% interval] |")
    assert lines[2].startswith("| BM25 | 0.5000 [0.5000, 0.5000] |") and lines[2].endswith("| 8 | 0 | - | - |")
    assert lines[4].startswith(r"| trained \| GRPO | 0.8750 [") and lines[4].endswith("| 8 | 1 | 2.5% | 0.0% |")
    assert "- trained | GRPO against BM25: no significant difference (+0.3750 nDCG@10" in text
    assert "is worse than BM25" in text
    assert "control (control: rewards permuted within groups): the mean training reward does not rise" in text


def test_the_best_order_of_the_candidates_is_a_row(finished, metrics):
    [oracle] = metrics["references"]
    assert (oracle["role"], oracle["mean"]["nDCG@10"], oracle["num_queries"]) == ("oracle", 1.0, 8)
    assert "| oracle: best order of the candidates | 1.0000 [1.0000, 1.0000] |" in table(Metrics.from_json(metrics))


def test_rows_say_what_they_are(metrics):
    roles = {row["run"]: row["role"] for row in metrics["rows"]}
    assert roles == {"first": "first_stage", "untrained": "untrained", "trained": "system"}


def test_first_stage_and_untrained_rows_follow_where_they_were_not_asked_for(experiment):
    found = evaluated(experiment, runs=["trained"], comparisons=[["trained", "untrained"]])
    assert [row["run"] for row in found["rows"]] == ["trained", "first", "untrained"]
    assert [row["role"] for row in found["references"]] == ["oracle"]


def test_a_first_stage_that_was_not_ranked_is_computed_and_an_untrained_model_left_out(experiment):
    del experiment.stages["first"]
    (Path(experiment.run_dir) / "untrained" / "run.trec").unlink()
    found = evaluated(experiment, runs=["trained"])
    assert [row["run"] for row in found["rows"]] == ["trained"]
    first, oracle = found["references"]
    assert (first["role"], oracle["role"]) == ("first_stage", "oracle")
    assert first["mean"]["nDCG@10"] == pytest.approx(FIRST)


def test_a_fusion_is_a_row_of_its_own(experiment):
    shutil.copytree(Path(experiment.run_dir) / "trained", Path(experiment.run_dir) / "fused")
    experiment.stages["fused"] = RerankStage(kind="rerank", fuse=["first", "trained"])
    found = evaluated(experiment)
    assert [(row["run"], row["role"]) for row in found["rows"]][-1] == ("fused", "fusion")


def test_a_chosen_weight_is_in_the_metrics_below_the_table_and_on_the_page(experiment):
    run_dir = Path(experiment.run_dir)
    shutil.copytree(run_dir / "trained", run_dir / "fused")
    values = [0.5 + i / 100 for i in range(len(WEIGHTS))]
    chosen = ChosenWeight("zscore", 1.0, "nDCG@10", ["trained_dev", "first_dev"], 213, values)
    summary = json.loads((run_dir / "fused/summary.json").read_text())
    write_json(run_dir / "fused/summary.json", {**summary, "fusion": dataclasses.asdict(chosen)})
    how = FusionConfig(method="zscore", weight=TunedWeight(dev=["trained_dev", "first_dev"]))
    fused = RerankStage(kind="rerank", fuse=["trained", "first"], fusion=how, label="both")
    experiment.stages = {"fused": fused, **experiment.stages}
    found = evaluated(experiment)
    assert found["weights"] == {"fused": dataclasses.asdict(chosen)}
    says = "both: weight 1.00 (zscore), chosen on 213 development queries of trained_dev and first_dev. nDCG@10 on dev"
    assert says in (run_dir / "evaluate/table.md").read_text()
    report_stage.run(experiment, "report", experiment.stages["report"])
    page = (run_dir / "report/index.html").read_text()
    assert says in page and "0.95: 0.6900, 1.00: 0.7000." in page


def test_runs_with_several_seeds_are_a_row_over_seeds_and_queries(experiment):
    # Seed 2 lacks no query and has the relevant document first everywhere: 1 beside 7/8.
    run_dir = Path(experiment.run_dir)
    shutil.copytree(run_dir / "trained", run_dir / "trained2")
    lines = [f"q{q} Q0 d{q}-{d} {rank} {-rank} x\n" for q in range(8) for rank, d in enumerate((2, 0, 1, 3), start=1)]
    (run_dir / "trained2" / "run.trec").write_text("".join(lines))
    experiment.stages["trained2"] = RerankStage(kind="rerank", model="grpo", label="second seed")
    seeds = {"GRPO": ["trained", "trained2"]}
    found = evaluated(experiment, seeds=seeds, comparisons=[["GRPO", "first"], ["trained", "first"]])
    [row] = found["over_seeds"]["rows"]
    assert (row["label"], row["num_missing"]) == ("GRPO (mean of 2 seeds)", 1)
    assert row["mean"]["nDCG@10"] == pytest.approx((7 / 8 + 1) / 2)
    assert row["interval"]["nDCG@10"][0] < (7 / 8 + 1) / 2 < row["interval"]["nDCG@10"][1]
    # 1 and 1 of 40 prompts are malformed.
    assert row["malformed"] == pytest.approx(1 / 40)
    [over], [alone] = found["over_seeds"]["comparisons"], found["comparisons"]
    assert (over["system"], over["baseline"], alone["system"]) == ("GRPO", "first", "trained")
    assert over["difference"] == pytest.approx((7 / 8 + 1) / 2 - FIRST)
    # Both are one family of tests.
    smaller = min(over, alone, key=lambda c: c["p_value"])
    assert smaller["p_value_holm"] == pytest.approx(2 * smaller["p_value"])
    text = table(Metrics.from_json(found))
    assert "| GRPO (mean of 2 seeds) | 0.9375 [" in text
    assert "- GRPO (mean of 2 seeds) " in text


def test_a_measure_for_which_lower_is_better_is_read_so(experiment):
    # The relevant document stands at rank 4 instead of 3.
    found = evaluated(experiment, measures=["LastRel"], comparisons=[["untrained", "first"]])
    [comparison] = found["comparisons"]
    assert comparison["difference"] == pytest.approx(1.0)
    assert "untrained" in found["per_query"] and "is worse than BM25" in table(Metrics.from_json(found))


def test_chosen_runs_stand_in_the_asked_order(experiment):
    evaluate_stage.run(
        experiment, "evaluate", EvaluateStage(kind="evaluate", runs=["trained", "first"], measures=["AP"])
    )
    text = (Path(experiment.run_dir) / "evaluate" / "table.md").read_text()
    assert [line.split(" | ")[0] for line in text.splitlines()[2:4]] == [r"| trained \| GRPO", "| BM25"]


def test_rows_with_the_same_label_are_told_apart(experiment):
    experiment.stages["first"].label = "trained | GRPO"
    evaluate_stage.run(experiment, "evaluate", EvaluateStage(kind="evaluate", runs=["trained", "first"]))
    text = (Path(experiment.run_dir) / "evaluate" / "table.md").read_text()
    assert r"trained \| GRPO (trained)" in text and r"trained \| GRPO (first)" in text


def test_an_experiment_without_training_has_no_training_part(experiment):
    for name in ("grpo", "control"):
        (Path(experiment.run_dir) / name / "metrics.jsonl").unlink()
    evaluate_stage.run(experiment, "evaluate", EvaluateStage(kind="evaluate"))
    assert "training reward" not in (Path(experiment.run_dir) / "evaluate" / "table.md").read_text()


@pytest.mark.parametrize(
    ("settings", "error", "reason"),
    [
        ({"runs": ["grpo"]}, LookupError, "'grpo', which is no rerank stage; there are: first, untrained, trained"),
        ({"comparisons": [["trained"]]}, ValueError, "a comparison is a pair"),
        ({"comparisons": [["trained", "bm25"]]}, LookupError, "'bm25', which is not among the runs"),
        ({"measures": ["ndcg@10"]}, ValueError, "Did you mean 'nDCG'"),
        ({"measures": []}, ValueError, "list of measures is empty"),
        ({"seeds": {"a": ["trained"]}}, ValueError, "seeds.a must name two or more rerank stages"),
        ({"seeds": {"a": ["trained", "trained"]}}, ValueError, "each once; got ['trained', 'trained']"),
        ({"seeds": {"a": ["trained", "grpo"]}}, LookupError, "seeds.a names 'grpo', which is not among the runs"),
        ({"seeds": {"first": ["trained", "untrained"]}}, ValueError, "a rerank stage has the same name"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(experiment: Config, settings, error, reason):
    with pytest.raises(error) as caught:
        evaluate_stage.run(experiment, "evaluate", EvaluateStage(kind="evaluate", **settings))
    assert reason in str(caught.value)


def test_a_run_that_is_not_there_yet_is_named(experiment):
    (Path(experiment.run_dir) / "trained" / "run.trec").unlink()
    with pytest.raises(FileNotFoundError, match="run the rerank stage 'trained' first"):
        evaluate_stage.run(experiment, "evaluate", EvaluateStage(kind="evaluate"))


def test_runs_of_different_splits_are_not_compared(experiment):
    experiment.stages["first"].split = "dev"
    with pytest.raises(ValueError, match="different splits, 'test' and 'dev'"):
        evaluate_stage.run(experiment, "evaluate", experiment.stages["evaluate"])
