# ruff: noqa: T201 (a script whose output is its table)
"""Reinforcement learning on scores against GRPO on sampled answers: quality, and processor time to get there.

    python benchmarks/policies.py RUNS [--output docs/experiments/policies] [SETTING=VALUE ...]

Runs the experiments `policies` and `policies_tokens` in RUNS, stage by stage, and notes the processor time of each,
that of starting and of reading the model included. What is done is skipped, so an interrupted run goes on by the same
command. Writes every query's nDCG@10 (`per_query.jsonl`), each stage's time (`seconds.json`) and a table with tests
over queries and seeds (`table.md`). Further arguments are settings of both experiments, such as `data=collection
data.path=FOLDER`, or `model.path=FOLDER`; those of one alone are `policies:stages.short1.max_steps=8`.

Draws the runs' nDCG@10 over the processor time that they took (`docs/img/policies.png`).

The ceiling is the nDCG@10 of the best order of the candidates, which no way of ranking exceeds; the spread of a system
is the standard deviation of its runs' means over seeds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from rl_rerank.config import Config
from rl_rerank.data import prepare
from rl_rerank.evaluation.seeds import interval_over_seeds, paired_test_over_seeds
from rl_rerank.experiment import run_state, runner
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io import subprocesses
from rl_rerank.io.files import write_json, write_jsonl, write_text
from rl_rerank.metrics import ndcg
from rl_rerank.stages.evaluate.spec import EvaluateStage
from rl_rerank.stages.training import TrainingStage

EXPERIMENTS = ("policies", "policies_tokens")
TESTS = (
    ("scores", "untrained"),
    ("short", "untrained"),
    ("scores", "tokens"),
    ("short", "tokens"),
    ("both", "sft"),
)
MEASURE = "nDCG@10"
FIGURE = Path(__file__).parent.parent / "docs/img/policies.png"
COLOURS = {"scores": "#0b6e99", "short": "#4cb3d4", "sft": "#8a8a8a", "both": "#3a3a3a", "tokens": "#c8553d"}


def composed(name: str, runs: Path, settings: Sequence[str]) -> tuple[Config, list[str]]:
    """An experiment, and the settings that it is composed of."""
    own = [s.partition(":")[2] for s in settings if s.startswith(f"{name}:")]
    shared = [s for s in settings if not s.startswith(tuple(f"{e}:" for e in EXPERIMENTS))]
    overrides = [f"experiment={name}", f"run_dir={runs / name}", "report_to=[]", *shared, *own]
    config = compose("run", overrides)
    assert isinstance(config, Config)
    Experiment.of(config)
    return config, overrides


def run(config: Config, overrides: Sequence[str], seconds: Path) -> None:
    """Run the stages that are not done, and note how many seconds each took, of processors and of the clock."""
    runner.prepared(Experiment.of(config))
    taken: dict[str, dict[str, float]] = json.loads(seconds.read_text()) if seconds.is_file() else {}
    for name in config.stages:
        if run_state.done(Experiment.of(config), name) is not None:
            continue
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        run_state.begin(Experiment.of(config), name)
        status = subprocesses.run(runner.command(config, name, overrides))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if status:
            raise SystemExit(runner.explain(config, name, status))
        taken[name] = {"processors": round(spent, 1), "clock": round(time.monotonic() - start, 1)}
        write_json(seconds, taken)


def values(config: Config) -> dict[str, list[dict[str, float]]]:
    """System -> of each of its runs, qid -> nDCG@10."""
    metrics = json.loads((Path(config.run_dir) / "evaluate/metrics.json").read_text())
    evaluated = config.stages["evaluate"]
    assert isinstance(evaluated, EvaluateStage)
    of_run: dict[str, dict[str, float]] = {
        name: {qid: found[MEASURE] for qid, found in queries.items()} for name, queries in metrics["per_query"].items()
    }
    alone = of_run.keys() - {name for names in evaluated.seeds.values() for name in names}
    systems = {name.removesuffix("_eval"): [of_run[name]] for name in of_run if name in alone}
    return systems | {system: [of_run[name] for name in names] for system, names in evaluated.seeds.items()}


def minutes(configs: Mapping[str, Config], seconds: Mapping[str, Any], system: str) -> tuple[float, float, float]:
    """Of a system's training stages, by the mean: clock, processor time, and that with what they started from."""
    home = next(e for e, c in configs.items() if any(name.startswith(system) for name in c.stages))
    config, taken = configs[home], seconds[home]
    names = [name for name in (system, *(f"{system}{seed}" for seed in (1, 2, 3))) if name in config.stages]
    trained = [name for name in names if isinstance(config.stages[name], TrainingStage)]
    if not trained:
        return 0.0, 0.0, 0.0
    clock, own = (statistics.fmean(taken[name][kind] for name in trained) for kind in ("clock", "processors"))
    whole = statistics.fmean(sum(taken[n]["processors"] for n in _ancestry(config, name)) for name in trained)
    return clock / 60, own / 60, whole / 60


def _ancestry(config: Config, name: str) -> Iterator[str]:
    """A training stage, and those that its model comes from."""
    while isinstance(stage := config.stages.get(name), TrainingStage):
        yield name
        name = stage.model


def ceiling(config: Config) -> float:
    """Mean nDCG@10 of the best order of the candidates."""
    store = prepare(config.data, Path(config.run_dir) / "data")
    qrels = store.qrels("test")
    examples = [example for example in store.examples("test") if example.qid in qrels]
    best = [ndcg(sorted(e.docids, key=lambda d, e=e: -qrels[e.qid].get(d, 0)), qrels[e.qid], k=10) for e in examples]
    return statistics.fmean(best)


def table(configs: Mapping[str, Config], found: Mapping[str, Any], seconds: Mapping[str, Any]) -> str:
    """Systems with their means, and the tests between them."""
    lines = [
        f"| system | {MEASURE} | 95% interval | spread over seeds | minutes | CPU minutes | with what it starts from |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    matrix = {}
    for system, runs in found.items():
        qids = sorted(runs[0])
        matrix[system] = [[run[qid] for qid in qids] for run in runs]
        means = [statistics.fmean(run) for run in matrix[system]]
        low, high = interval_over_seeds(matrix[system], seed=1)
        spread = f"{statistics.stdev(means):.4f}" if len(means) > 1 else ""
        times = " | ".join(f"{taken:.1f}" if taken else "" for taken in minutes(configs, seconds, system))
        lines.append(f"| {system} | {statistics.fmean(means):.4f} | [{low:.4f}, {high:.4f}] | {spread} | {times} |")
    lines += [
        "",
        f"The best order of the candidates: {ceiling(configs['policies']):.4f}.",
        "",
        "| difference | mean | 95% interval | p (randomisation) | p (t) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for ours, theirs in (pair for pair in TESTS if matrix.keys() >= set(pair)):
        test = paired_test_over_seeds(matrix[ours], matrix[theirs], seed=1)
        low, high = test.interval
        lines.append(
            f"| {ours} - {theirs} | {test.difference:+.4f} | [{low:+.4f}, {high:+.4f}] | {test.p_value:.4f} | "
            f"{test.p_value_t:.4f} |"
        )
    return "\n".join(lines) + "\n"


def draw(path: Path, configs: Mapping[str, Config], found: Mapping[str, Any], seconds: Mapping[str, Any]) -> None:
    """Every run's mean over the processor time of its stages and of those that it started from."""
    figure, area = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, style in (("first_stage", ":"), ("untrained", "--")):
        mean = statistics.fmean(found[name][0].values())
        area.axhline(mean, color="#888888", linewidth=1, linestyle=style, label=name.replace("_", " "))
    for name, colour in COLOURS.items():
        whole = minutes(configs, seconds, name)[2]
        means = [statistics.fmean(run.values()) for run in found[name]]
        area.plot([whole] * len(means), means, "o", color=colour, alpha=0.5, markersize=5)
        area.plot([whole], [statistics.fmean(means)], "D", color=colour, markersize=8, label=name)
    area.set(xlabel="processor minutes, with what it starts from", ylabel=MEASURE, xscale="log")
    ticks = [1, 2, 5, 10, 20, 50]
    area.set_xticks(ticks, labels=[str(tick) for tick in ticks], minor=False)
    area.minorticks_off()
    area.spines[["top", "right"]].set_visible(False)
    area.grid(alpha=0.25)
    area.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "docs/experiments/policies")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    given, settings = parser.parse_known_args()
    configs: dict[str, Config] = {}
    for name in EXPERIMENTS:
        configs[name], overrides = composed(name, given.runs, settings)
        run(configs[name], overrides, given.runs / f"{name}.seconds.json")
    seconds = {name: json.loads((given.runs / f"{name}.seconds.json").read_text()) for name in EXPERIMENTS}
    found: dict[str, list[dict[str, float]]] = {}
    for config in configs.values():
        found |= {system: runs for system, runs in values(config).items() if system not in found}
    rows = [
        {"system": system, "seed": seed, "qid": qid, MEASURE: value}
        for system, runs in found.items()
        for seed, run_values in enumerate(runs, start=1)
        for qid, value in sorted(run_values.items())
    ]
    given.output.mkdir(parents=True, exist_ok=True)
    write_jsonl(given.output / "per_query.jsonl", rows)
    write_json(given.output / "seconds.json", seconds)
    draw(given.figure, configs, found, seconds)
    text = table(configs, found, seconds)
    write_text(given.output / "table.md", text)
    print(text)


if __name__ == "__main__":
    main()
