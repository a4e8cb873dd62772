# ruff: noqa: T201 (a script whose output is its table)
"""One prompt for all documents against a prompt for each, after training on equally many tokens.

    python benchmarks/one_prompt.py RUNS [--output docs/experiments/one_prompt] [SETTING=VALUE ...]

Runs the experiment `one_prompt` with paradigm=pointwise and with paradigm=first_token. A list takes fewer tokens where
one prompt shows it all, so the second is given more steps: as many as make the tokens of its lists equal to those of
the first. Writes every query's nDCG@10 under each of three random orders (`per_query.jsonl`) and a table (`table.md`):
nDCG, prompts and tokens of a query, and how far the rankings agree that were made from different orders (Kendall's
tau).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from rl_rerank.config import Config
from rl_rerank.data import prepare
from rl_rerank.engines.local import checkpoint
from rl_rerank.evaluation.functions.positions import agreement
from rl_rerank.evaluation.statistics import paired_test
from rl_rerank.experiment import runner
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import read_jsonl, write_jsonl, write_text
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank.training.exact.lists import lists

PARADIGMS = ("pointwise", "first_token")
SYSTEMS = ("untrained", "trained")
ORDERS = ("1", "2", "3")
MEASURE = "nDCG@10"


def composed(paradigm: str, runs: Path, settings: Sequence[str]) -> tuple[Config, list[str]]:
    """The experiment with one paradigm, and the settings that it is composed of."""
    fixed = ["experiment=one_prompt", f"run_dir={runs / paradigm}", f"paradigm={paradigm}", "report_to=[]"]
    config = compose("run", [*fixed, *settings])
    assert isinstance(config, Config)
    Experiment.of(config)
    return config, [*fixed, *settings]


def tokens_of_a_step(config: Config, steps: int) -> float:
    """Mean number of tokens of the prompts and answers that the training stage sees in a step."""
    stage = config.stages["trained"]
    assert isinstance(stage, SFTStage)
    renderer = checkpoint.renderer(config.model, checkpoint.base_model_dir(config.model))
    seen = lists(
        prepare(config.data, Path(config.run_dir) / "data").examples("train"),
        build_paradigm(config, config.paradigm),
        renderer,
        count=steps * stage.batch_size,
        size=stage.list_size,
        seed=stage.seed,
    )
    return sum(len(ids) for one in seen for ids in (*one.prompts, *one.answers)) / steps


def system(config: Config, name: str) -> tuple[list[dict[str, float]], str]:
    """nDCG@10 of each query under each order; and a row of the table."""
    run = Path(config.run_dir)
    metrics = json.loads((run / "evaluate/metrics.json").read_text())
    found = [{q: v[MEASURE] for q, v in metrics["per_query"][name + order].items()} for order in ORDERS]
    rankings = [
        {row["qid"]: row["docids"] for row in read_jsonl(run / f"{name}{order}/rankings.jsonl")} for order in ORDERS
    ]
    tau = statistics.fmean(
        agreement([ranking[qid] for ranking in rankings]) for qid in found[0] if len(rankings[0][qid]) > 1
    )
    cost = json.loads((run / f"{name}1/summary.json").read_text())["cost"]
    queries = len(rankings[0])
    mean = statistics.fmean(statistics.fmean(run.values()) for run in found)
    row = (
        f"| {config.paradigm}, {name} | {mean:.4f} | {cost['calls'] / queries:.1f} | "
        f"{cost['prompt_tokens'] / queries:.0f} | {cost['seconds'] / queries:.2f} | {tau:.3f} |"
    )
    return found, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "docs/experiments/one_prompt")
    given, settings = parser.parse_known_args()
    lines = [
        f"| model | {MEASURE} | prompts a query | tokens a query | seconds a query | agreement of orders |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows: list[dict[str, object]] = []
    means: dict[str, list[float]] = {}
    budget, said = 0.0, []
    for paradigm in PARADIGMS:
        config, overrides = composed(paradigm, given.runs, settings)
        stage = config.stages["trained"]
        assert isinstance(stage, SFTStage)
        each = tokens_of_a_step(config, stage.max_steps)
        budget = budget or each * stage.max_steps
        steps = round(budget / each)
        said.append(f"{paradigm}: {steps} steps of {each:.0f} tokens = {steps * each:,.0f}")
        config, overrides = composed(paradigm, given.runs, [*settings, f"stages.trained.max_steps={steps}"])
        if status := runner.run(config, overrides):
            raise SystemExit(status)
        for name in SYSTEMS:
            found, row = system(config, name)
            lines.append(row)
            qids = sorted(found[0])
            means[f"{paradigm}, {name}"] = [statistics.fmean(run[qid] for run in found) for qid in qids]
            rows += [
                {"model": f"{paradigm}, {name}", "order": order, "qid": qid, MEASURE: run[qid]}
                for order, run in zip(ORDERS, found, strict=True)
                for qid in qids
            ]
    test = paired_test(means["first_token, trained"], means["pointwise, trained"], seed=1)
    low, high = test.interval
    lines += [
        "",
        f"{'; '.join(said)}.",
        f"first_token - pointwise, trained: {test.difference:+.4f} [{low:+.4f}, {high:+.4f}], p = {test.p_value:.4f}.",
    ]
    given.output.mkdir(parents=True, exist_ok=True)
    write_jsonl(given.output / "per_query.jsonl", rows)
    write_text(given.output / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
