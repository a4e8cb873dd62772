"""The report over several finished runs: what both have is tested, and what got worse is flagged."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from html import escape
from pathlib import Path
from typing import NamedTuple

import pytest
from support.report_page import read

from rl_rerank.cli import main
from rl_rerank.config import ReportRuns
from rl_rerank.evaluation import protocol
from rl_rerank.evaluation.table import p_values
from rl_rerank.io.files import write_json
from rl_rerank.io.trec import write_run
from rl_rerank.report.evidence import Evidence
from rl_rerank.report.runs import gather, markdown
from rl_rerank.report.training import overlaid_plots
from rl_rerank.stages.evaluate import run as evaluate_stage
from rl_rerank.stages.evaluate.spec import EvaluateStage
from rl_rerank.stages.report import run as report_stage
from rl_rerank.types import Ranking

pytestmark = pytest.mark.slow

# Of the small finished experiment
HOSTILE = "<script>alert('q')</script> & $\\frac{"
NUM_QUERIES = 32


def copied(finished, folder: Path):
    """A run of its own in `folder`."""
    shutil.copytree(finished.run_dir, folder)
    config = dataclasses.replace(finished, run_dir=str(folder), stages=dict(finished.stages))
    write_json(folder / "config.json", dataclasses.asdict(config))
    return config


def ranking(q, order) -> Ranking:
    docids = tuple(f"d{q}-{d}" for d in order)
    return Ranking(f"q{q}", docids, {docid: -float(rank) for rank, docid in enumerate(docids)})


def degraded(config, orders):
    """The run with another order of the trained system, which lacks the last query of eight, measured again."""
    rankings = [ranking(q, orders[q % 8]) for q in range(NUM_QUERIES) if q % 8 < 7]
    write_run(Path(config.run_dir) / "trained" / "run.trec", rankings, "trained")
    evaluate_stage.run(config, "evaluate", config.stages["evaluate"])


@pytest.fixture
def pair(large, tmp_path):
    """Two runs with the same values."""
    return [copied(large, tmp_path / name) for name in ("seed1", "seed2")]


class Made(NamedTuple):
    evidence: Evidence
    page: Path
    printed: tuple[str, str]


@pytest.fixture(scope="module")
def regressed(large, tmp_path_factory):
    """The report of a run and of one whose trained system puts the relevant document last but in one query."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = (copied(large, folder / name) for name in ("seed1", "seed2"))
    degraded(second, [(3, 0, 1, 2)] * 6 + [(3, 2, 0, 1)])
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main.main(["report", f"run_dirs=[{first.run_dir},{second.run_dir}]", f"output={folder / 'page'}"]) == 0
    return Made(gather(ReportRuns(run_dirs=dirs(first, second))), folder / "page", (out.getvalue(), err.getvalue()))


def dirs(*configs):
    return [config.run_dir for config in configs]


def test_a_planted_regression_is_flagged_with_the_queries_that_lost_most(regressed):
    [flag] = regressed.evidence.regressions
    assert (flag.system, flag.run, flag.baseline) == ("trained | GRPO", "seed2", "seed1")
    # From rank 1 to rank 4 is a loss of 1 - 1 / log2(5), to rank 2 of 1 - 1 / log2(3); of 8: 6 and 1
    assert flag.measures["nDCG@10"].difference == pytest.approx(-(6 * 0.569323 + 0.369070) / 8, abs=1e-6)
    # 28 of 32 queries lost and four stayed: two of 2^28 sign patterns are as extreme, and none was drawn.
    assert flag.measures["nDCG@10"].p_value == pytest.approx(1 / 10_001)
    assert list(flag.measures) == ["nDCG@10", "RR@10", "AP"]
    assert [q.qid for q in flag.lost] == ["q0", "q1", "q10", "q11", "q12"]
    assert flag.lost[0].query == f"query 0 {HOSTILE}"
    html = (regressed.page / "index.html").read_text()
    text = " ".join(" ".join(read(html).texts).split())
    assert "Regression: trained | GRPO is worse in seed2 than in seed1" in text
    assert text.index("Regression") < text.index("Systems")
    assert "query 11 q11 1.000 0.431" in text


def test_the_markdown_says_it_too_and_names_the_protocol(regressed):
    text = (regressed.page / "table.md").read_text()
    flag = text.splitlines()[0]
    assert flag.startswith(
        "**Regression: trained | GRPO is worse in seed2 than in seed1**: -0.4731 nDCG@10 (p < 0.0001)"
    )
    assert "query 1 (q1) 1.000 to 0.431" in flag
    assert "<script>" not in flag
    assert "| trained \\| GRPO (seed2) | 0.4019 [" in text
    assert "Protocol: split test, depth 4, data dddddddd, first stage ffffffff." in text


def test_the_page_over_runs_is_as_safe_as_the_page_of_one(regressed):
    reader = read((regressed.page / "index.html").read_text())
    assert {"script", "iframe", "object", "form", "link", "base"}.isdisjoint(reader.tags)
    assert reader.handlers == []
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)


def test_a_system_of_both_runs_stands_side_by_side_and_the_same_first_stage_once(regressed):
    labels = [row.label for row in regressed.evidence.metrics.rows]
    assert labels == [
        "BM25",
        f"{HOSTILE} (seed1)",
        f"{HOSTILE} (seed2)",
        "trained | GRPO (seed1)",
        "trained | GRPO (seed2)",
    ]


def test_curves_of_both_runs_are_drawn_into_one_plot(regressed):
    names = {path.stem for path in regressed.page.glob("*.png")}
    assert {"grpo-reward", "grpo-reward-ndcg", "grpo-reward-format", "grpo-well_formed", "grpo-kl"} <= names
    assert {"frontier-tokens", "frontier-seconds", "intervals", "changes"} <= names


def test_answers_of_a_query_are_shown_with_prompt_and_status(regressed):
    text = " ".join(" ".join(read((regressed.page / "index.html").read_text()).texts).split())
    assert "Asked of trained | GRPO (seed2): tags 1" in text
    assert f"user Is it relevant? {HOSTILE}" in text
    assert "no_answer in 1 answer, here" in text
    # e^-0.1
    assert 'scored: "yes" 0.905' in text


def test_the_adjusted_p_value_stands_beside_every_verdict(large, tmp_path):
    runs = [copied(large, tmp_path / name) for name in ("seed1", "seed2", "seed3")]
    for run in runs[1:]:
        degraded(run, [(3, 0, 1, 2)] * 6 + [(3, 2, 0, 1)])
    wanted = ReportRuns(run_dirs=dirs(*runs), output=str(tmp_path / "page"))
    report_stage.report_runs(wanted)
    text = (tmp_path / "page/index.html").read_text()
    for tests in gather(wanted).by_measure.values():
        for test in tests:
            # Two systems are tested by each measure.
            assert test.p_value_holm == 2 * test.p_value
            assert f"{escape(p_values(test))} (randomisation)" in text or f"({escape(p_values(test))})" in text
            assert p_values(test).endswith(" by Holm")


def test_an_untrained_model_that_is_the_same_in_both_runs_is_not_tested_against_itself(pair):
    titles = list(gather(ReportRuns(run_dirs=dirs(*pair))).by_measure)
    assert len(titles) == 1 and titles[0].startswith("trained")


def test_runs_that_agree_have_no_regression(pair):
    evidence = gather(ReportRuns(run_dirs=dirs(*pair)))
    assert evidence.regressions == ()
    assert {test.difference for tests in evidence.by_measure.values() for test in tests} == {0.0}
    assert "Regression" not in markdown(evidence)


def test_a_gain_is_no_regression(pair):
    degraded(pair[0], [(3, 0, 1, 2)] * 7)
    assert gather(ReportRuns(run_dirs=dirs(*pair))).regressions == ()
    assert len(gather(ReportRuns(run_dirs=dirs(pair[1], pair[0]))).regressions) == 1


def test_a_system_goes_by_its_label_or_else_by_its_stage(pair):
    for label, expected in (("another name", "trained"), ("untrained", "trained")):
        pair[1].stages["trained"] = dataclasses.replace(pair[1].stages["trained"], label=label)
        evaluate_stage.run(pair[1], "evaluate", pair[1].stages["evaluate"])
        evidence = gather(ReportRuns(run_dirs=dirs(*pair)))
        assert (f"seed2/{expected}", f"seed1/{expected}") in {
            (test.system, test.baseline) for tests in evidence.by_measure.values() for test in tests
        }


def test_runs_without_a_common_system_stand_in_one_table_untested(pair, tmp_path):
    for config, name in zip(pair, ("first", "trained"), strict=True):
        stage = EvaluateStage(kind="evaluate", runs=[name])
        config.stages = {name: config.stages[name], "evaluate": stage}
        write_json(Path(config.run_dir) / "config.json", dataclasses.asdict(config))
        evaluate_stage.run(config, "evaluate", stage)
    evidence = report_stage.report_runs(ReportRuns(run_dirs=dirs(*pair), output=str(tmp_path / "page")))
    assert [row.label for row in evidence.metrics.rows] == ["BM25 (seed1)", "trained | GRPO (seed2)"]
    assert evidence.by_measure == {}
    assert evidence.regressions == ()
    assert "query 3" in (tmp_path / "page" / "index.html").read_text()


def test_different_protocols_are_refused_with_every_difference_unless_forced(pair):
    folder = Path(pair[1].run_dir)
    for name in ("untrained", "trained"):
        made_under = protocol.read(folder / name)
        assert made_under is not None
        protocol.write(folder / name, dataclasses.replace(made_under, depth=20, template="9" * 64))
    with pytest.raises(ValueError) as caught:
        gather(ReportRuns(run_dirs=dirs(*pair)))
    assert "seed1 and seed2 were made under different protocols: depth 4 and 20" in str(caught.value)
    assert "the wording of pointwise prompts (template eeeeeeee and 99999999)" in str(caught.value)
    assert str(caught.value).endswith("force=true")
    evidence = gather(ReportRuns(run_dirs=dirs(*pair), force=True))
    assert "Forced comparison: seed1 and seed2 were made under different protocols: depth 4 and 20" in markdown(
        evidence
    )


def test_runs_with_few_queries_in_common_are_not_compared(finished, tmp_path):
    pair = [copied(finished, tmp_path / name) for name in ("seed1", "seed2")]
    orders = [(3, 0, 1, 2)] * 7
    write_run(Path(pair[1].run_dir) / "trained" / "run.trec", [ranking(q, orders[q]) for q in range(7)], "trained")
    evaluate_stage.run(pair[1], "evaluate", pair[1].stages["evaluate"])
    evidence = report_stage.report_runs(ReportRuns(run_dirs=dirs(*pair), output=str(tmp_path / "page")))
    assert evidence.regressions == () and evidence.by_measure == {}
    text = " ".join(" ".join(read((tmp_path / "page/index.html").read_text()).texts).split())
    said = "trained | GRPO, seed2 against seed1: 8 queries: too few to compare."
    for page in (text, (tmp_path / "page/table.md").read_text()):
        assert said in page and "0.8750" not in page and "0.3769" not in page and "worse" not in page


def test_an_evaluate_stage_refuses_different_protocols_unless_forced(experiment):
    folder = Path(experiment.run_dir) / "trained"
    made_under = protocol.read(folder)
    assert made_under is not None
    protocol.write(folder, dataclasses.replace(made_under, first_stage="9" * 64))
    stage = experiment.stages["evaluate"]
    with pytest.raises(ValueError) as caught:
        evaluate_stage.run(experiment, "evaluate", stage)
    assert "trained and first were made under different protocols: first stage 99999999 and ffffffff" in str(
        caught.value
    )
    assert "stages.evaluate.force=true" in str(caught.value)
    evaluate_stage.run(experiment, "evaluate", dataclasses.replace(stage, force=True))
    assert "Forced comparison: trained and first" in (folder.parent / "evaluate" / "table.md").read_text()
    experiment.stages = {n: s for n, s in experiment.stages.items() if n not in ("grpo", "control")}
    report_stage.run(experiment, "report", experiment.stages["report"])
    html = (folder.parent / "report" / "index.html").read_text()
    assert html.index("Forced comparison") < html.index("<table")


def test_what_is_no_finished_run_is_named(pair, tmp_path):
    good, other = pair[0].run_dir, Path(pair[1].run_dir)

    def refusal(*folders):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            gather(ReportRuns(run_dirs=list(map(str, folders))))
        return str(caught.value)

    assert "there is no folder" in refusal(good, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "empty' is no run folder, because it holds no config.json" in refusal(tmp_path / "empty", good)
    metrics = other / "evaluate" / "metrics.json"
    whole = json.loads(metrics.read_text())
    write_json(metrics, {**whole, "measures": ["AP"]})
    assert "seed2 was measured by AP and seed1 by nDCG@10, RR@10, AP" in refusal(good, other)
    write_json(metrics, {key: value for key, value in whole.items() if key != "protocols"})
    assert "metrics.json does not say what its rows were made under; run the stage 'evaluate'" in refusal(good, other)
    metrics.write_text("{")
    assert "metrics.json is not JSON" in refusal(good, other)
    metrics.unlink()
    assert "seed2' is not finished" in refusal(good, other)
    write_json(metrics, whole)
    (other / "trained" / "run.trec").unlink()
    assert "which is no longer there" in refusal(good, other)


def test_the_command_tells_runs_from_an_experiment(tmp_path, capsys):
    assert main.main(["report", f"run_dirs=[{tmp_path}/a,{tmp_path}/b]", "force=true", "seed=3"]) == 2
    assert f"there is no folder '{tmp_path}/a'" in capsys.readouterr().err
    for given, reason in (
        ("run_dirs=[a]", "at least two run folders"),
        ("run_dirs=[a,a/]", "'a' twice"),
        ("run_dirs=[a,b] force=perhaps", "force must be of type bool"),
        ("run_dirs=[a,b] outptu=c", "Did you mean 'output'"),
    ):
        assert main.main(["report", *given.split()]) == 2
        assert reason in capsys.readouterr().err


def test_the_command_prints_the_table_and_says_what_got_worse(regressed):
    out, err = regressed.printed
    assert "| trained \\| GRPO (seed2) | 0.4019 [" in out
    assert out.endswith(f"report: {regressed.page / 'index.html'}\n")
    assert "regression: trained | GRPO is worse in seed2 than in seed1" in err


def test_a_value_that_one_run_lacks_is_drawn_for_the_others():
    rows = [{"step": 1, "reward": 0.5, "reward/ndcg": 0.5, "dev/nDCG@10": 0.4, "dev/queries": 32.0}]
    plots = overlaid_plots("grpo", {"a": rows, "b": [{"step": 1, "reward": 0.6}]})
    assert [(plot.name, plot.title) for plot in plots] == [
        ("grpo-reward", "reward"),
        ("grpo-dev-nDCG@10", "dev/nDCG@10"),
    ]
