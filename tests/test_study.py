"""The study: experiments, a tiny run from nothing to a page, and interruptions."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.study import TINY, write_collections

from rl_rerank.cli.main import main
from rl_rerank.config import Config
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import conf_dir, read_jsonl, write_json

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment/study").glob("*.yaml"))


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collections(tmp_path_factory.mktemp("study") / "collections")


def script(name: str) -> ModuleType:
    """A module of the study; they import each other as a script does, from their own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


def study(runs: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(BENCHMARKS / "study.py"), str(runs), *arguments]


def finished(command: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_on_the_collections(name: str, tmp_path: Path):
    config = compose("run", [f"experiment=study/{name}", f"data.path={tmp_path}", "seed=3"])
    assert isinstance(config, Config)
    assert Experiment.of(config).stages
    # RL draws other lists than SFT of the same seed.
    seeds = {name: getattr(stage, "seed", None) for name, stage in config.stages.items()}
    assert seeds.get("sft", 3) == 3 and seeds.get("rl", 103) == 103


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_dry_runs(name: str, collections: Path, tiny_model_dir: Path, tmp_path: Path):
    settings = [f"data.path={collections}", f"run_dir={tmp_path / 'run'}", f"model.path={tiny_model_dir}", *TINY]
    assert main(["run", f"experiment=study/{name}", "dry_run=true", *settings]) == 0


def test_every_row_and_every_comparison_is_of_a_run_and_a_stage_that_exist():
    runs: Any = script("study_runs")
    experiments = {run.name: run.experiment for run in runs.RUNS}
    for system in runs.SYSTEMS:
        for name in system.runs:
            config = compose("run", [f"experiment={experiments[name]}", "data.path=FOLDER"])
            assert isinstance(config, Config)
            evaluated: Any = config.stages["evaluate"]
            assert system.stage in evaluated.runs
    keys = [system.key for system in runs.SYSTEMS]
    assert len(set(keys)) == len(keys)
    assert {key for pair in runs.COMPARISONS for key in pair} <= set(keys)
    assert sum(run.hours for run in runs.RUNS) <= runs.HOURS


def test_a_page_of_nothing_says_that_nothing_has_been_run(tmp_path: Path):
    finished(study(tmp_path / "runs", "--page", "--docs", str(tmp_path / "docs")))
    lines = (tmp_path / "docs/results.md").read_text().splitlines()
    runs: Any = script("study_runs")
    for system in runs.SYSTEMS:
        [row] = [line for line in lines if line.startswith(f"| {system.label} | not run |")][:1]
        assert "0 of" in row
    assert sum("not run" in line for line in lines) >= len(runs.SYSTEMS) + len(runs.COMPARISONS) + len(runs.RUNS)


def written(runs: Path, name: str, stage_values: dict[str, list[float]]) -> None:
    """Measures of a run, made by hand: the values of three queries of wikiqa and two of dl19."""
    qids = ["wikiqa:1", "wikiqa:2", "wikiqa:3", "dl19:1", "dl19:2"]
    per_query = {
        stage: {q: {"nDCG@10": v, "AP": v / 2, "RR": 1.0} for q, v in zip(qids, values, strict=True)}
        for stage, values in stage_values.items()
    }
    (runs / name / "evaluate").mkdir(parents=True)
    write_json(runs / name / "evaluate/metrics.json", {"per_query": per_query})


def test_the_page_has_means_over_seeds_tests_and_the_time_of_what_was_run(tmp_path: Path):
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    refs = ("first_stage", "bi_encoder", "bi_encoder_fused", "untrained", "untrained_fused")
    written(runs, "references", {stage: [0.1, 0.2, 0.3, 0.4, 0.6] for stage in refs})
    stages = ("sft_eval", "rl_eval", "sft_fused", "rl_fused")
    written(runs, "pointwise_seed1", {stage: [0.5, 0.6, 0.7, 0.8, 0.9] for stage in stages})
    written(runs, "pointwise_seed3", {stage: [0.7, 0.8, 0.9, 1.0, 0.9] for stage in stages})
    write_json(runs / "pointwise_seed1/seconds.json", {"sft": {"processors": 5400.0, "clock": 3000.0}})
    finished(study(runs, "--page", "--docs", str(docs)))
    lines = (docs / "results.md").read_text().splitlines()
    # wikiqa: (.6 + .8) / 2; dl19: (.85 + .95) / 2
    [row] = [line for line in lines if line.startswith("| pointwise, SFT | 0.700 [")]
    assert "| 0.900 [" in row and row.endswith("| 2 of 3 |")
    assert any(line.startswith("| BM25 (first stage) | 0.200 [") for line in lines)
    assert any(line.startswith("| pointwise, SFT | 0.350 [") for line in lines)  # AP
    # ours .5 .. .9 and .7 .. .9, theirs .1 .2 .3 .4 .6: the mean of .5 .5 .5 .5 .3
    [pair] = [line for line in lines if line.startswith("| pointwise, SFT | BM25 (first stage) |")]
    assert "| +0.460 |" in pair and pair.endswith("| 5 |")
    assert any(line.startswith("| graded, SFT+RL | graded, SFT | not run |") for line in lines)
    [run] = [line for line in lines if line.startswith("| pointwise_seed1 |")]
    assert "--only pointwise_seed1` | 20" in run and run.endswith(" | 1.50 |  |")
    assert "1.5 CPU hours in all" in "\n".join(lines)
    rows = read_jsonl(docs / "experiments/study/per_query.jsonl")
    assert {"collection": "wikiqa", "qids": ["wikiqa:1", "wikiqa:2", "wikiqa:3"]} in rows
    [own] = [
        r
        for r in rows
        if (r.get("system"), r.get("run"), r.get("measure")) == ("pointwise_rl", "pointwise_seed3", "AP")
    ]
    assert own["values"] == [0.35, 0.4, 0.45] and own["collection"] == "wikiqa"
    assert not any(row.get("measure") == "AP" and row["collection"] == "dl19" for row in rows)


def test_a_page_keeps_the_rows_of_runs_whose_folders_are_gone(tmp_path: Path):
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    stages = ("sft_eval", "rl_eval", "sft_fused", "rl_fused")
    written(runs, "pointwise_seed1", {stage: [0.5, 0.6, 0.7, 0.8, 0.9] for stage in stages})
    write_json(runs / "pointwise_seed1/seconds.json", {"sft": {"processors": 5400.0, "clock": 3000.0}})
    finished(study(runs, "--page", "--docs", str(docs)))
    page, data = docs / "results.md", docs / "experiments/study/per_query.jsonl"
    before = page.read_text(), data.read_text()
    shutil.rmtree(runs)
    finished(study(runs, "--page", "--docs", str(docs)))
    assert (page.read_text(), data.read_text()) == before
    # Another run joins it, and a new run of the same name takes its place.
    written(runs, "pointwise_seed1", {stage: [0.1, 0.1, 0.1, 0.2, 0.2] for stage in stages})
    written(runs, "pointwise_seed2", {stage: [0.3, 0.3, 0.3, 0.4, 0.4] for stage in stages})
    finished(study(runs, "--page", "--docs", str(docs)))
    assert "| pointwise, SFT | 0.200 [" in page.read_text()
    # Peers of a later day train for the time that was written down.
    study_script: Any = script("study")
    [peer] = [run for run in script("study_runs").RUNS if run.name == "trl_grpo"]
    write_json(runs / "pointwise_seed1/seconds.json", {"sft": {"processors": 60.0, "clock": 30.0}})
    assert study_script.pace(peer, runs, docs) == 60.0
    finished(study(runs, "--page", "--docs", str(docs)))
    shutil.rmtree(runs)
    assert study_script.pace(peer, runs, docs) == 60.0


def test_a_wrong_argument_a_missing_folder_and_peers_without_a_pace_are_refused(tmp_path: Path, collections: Path):
    for arguments, says in [
        (["--only", "references"], "--data is needed"),
        (["--data", str(collections), "--onyl", "x"], "unrecognized arguments: --onyl x"),
        (["--data", str(tmp_path / "nowhere"), "--only", "references"], "--data: there is no folder"),
        (
            ["--data", str(collections), "--only", "trl_grpo"],
            "trl_grpo receives the CPU time of pointwise_seed1's stage sft",
        ),
        (["--data", str(collections), "--hours", "0"], "0.0 hours are spent, of 0"),
    ]:
        command = study(tmp_path / "runs", "--docs", str(tmp_path / "docs"), *arguments)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode != 0 and says in done.stdout + done.stderr, done.stderr


@pytest.mark.process
def test_a_run_that_is_killed_goes_on_and_a_finished_one_is_skipped(
    collections: Path, tiny_model_dir: Path, tmp_path: Path
):
    runs = tmp_path / "runs"
    command = study(runs, "--data", str(collections), "--only", "first_token_seed1", f"model.path={tiny_model_dir}")
    command += [*TINY, "stages.sft.save_steps=1"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    run, deadline = runs / "first_token_seed1", time.monotonic() + 600
    while not list(run.glob("sft/checkpoints/checkpoint-*")) and time.monotonic() < deadline:
        assert first.poll() is None
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    made = (run / "data").stat().st_mtime_ns
    assert "first_token_seed1: done" in finished(command)
    assert (run / "data").stat().st_mtime_ns == made
    values = json.loads((run / "evaluate/metrics.json").read_text())["per_query"]
    # four test queries of each of five collections
    assert values.keys() == {"first_stage", "sft_eval", "rl_eval"} and len(values["sft_eval"]) == 20
    assert finished(command).strip() == "nothing is missing"
    finished(study(runs, "--page", "--docs", str(tmp_path / "docs")))
    page = (tmp_path / "docs/results.md").read_text()
    assert "| first token, SFT+RL | 0." in page and "| graded, SFT | not run |" in page


@pytest.mark.slow
@pytest.mark.parametrize(("peer", "loss"), [("smollm2", "softmax"), ("smollm2", "bce"), ("grpo", "trl_grpo")])
def test_a_peer_trains_for_a_time_and_is_ranked_by_the_same_stages(
    peer: str, loss: str, collections: Path, tiny_model_dir: Path, tmp_path: Path
):
    peers: Any = script("study_peers")
    experiment = "study/trl_grpo" if peer == "grpo" else "study/cross_encoder"
    overrides = [f"experiment={experiment}", f"data.path={collections}", f"run_dir={tmp_path / loss}"]
    config = compose("run", [*overrides, "report_to=[]", f"model.path={tiny_model_dir}", *TINY])
    assert isinstance(config, Config)
    peers.train(peer, loss, config, seconds=4.0)
    state = json.loads((tmp_path / loss / "peer.json").read_text())
    assert state["steps"] >= 1 and state["seconds"] == 4.0
    for name in ("first_stage", "test", "evaluate"):
        stage = config.stages[name]
        importlib.import_module(f"rl_rerank.stages.{stage.kind}.run").run(config, name, stage)
    values = json.loads((tmp_path / loss / "evaluate/metrics.json").read_text())["per_query"]
    assert len(values["test"]) == 20


@pytest.mark.soak
def test_the_whole_study_goes_from_nothing_to_a_page(collections: Path, tiny_model_dir: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    shown = finished(study(runs, "--data", str(collections), f"model.path={tiny_model_dir}", *TINY))
    assert "all 23 runs are done" in shown
    finished(study(runs, "--page", "--docs", str(tmp_path / "docs")))
    assert "not run" not in (tmp_path / "docs/results.md").read_text()
    assert (tmp_path / "docs/experiments/study/per_query.jsonl").stat().st_size < 1_000_000
