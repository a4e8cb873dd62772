"""docs/systems.md from the runs of the systems' experiments.

The tier of a system follows from its runs alone:

    reproduced   published weights, asked by experiment=published in RUNS/NAME-published, give the number of their
                 authors to within .01, on as many queries.
    learns here  at scale=cpu, on at least 100 held-out queries, the trained model is better than the untrained one,
                 and, where a reward trains, than its twin on permuted rewards (p < .05, by Holm over the
                 comparisons of its evaluation).
    mechanics    all checks of mechanisms pass.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from systems_table import SYSTEMS, Published, System

from rl_rerank.config import Config, trained
from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.statistics import paired_test
from rl_rerank.experiment.compose import compose
from rl_rerank.io.files import read_jsonl
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.rerank.spec import RerankStage

DOCS = Path(__file__).parent.parent / "docs"
ENOUGH = 100
"""Held-out queries of a claim that a model learns."""
NEAR = 0.01
LEVEL = 0.05
HEAD = (
    "# Published systems",
    "",
    "Each system is one experiment. `rl-rerank run experiment=NAME dry_run=true` prints the plan at the scale of its "
    "paper;",
    "`scale=cpu` runs it with SmolLM2-135M on two CPU cores. The latter shows that every stage and every mechanism "
    "behaves as",
    "the paper describes. It does not reproduce the paper's results, which need its models, data and hardware. The "
    "source of",
    "each value stands beside it in `conf/experiment/NAME.yaml`.",
    "",
    "The tier is computed from the runs: *mechanics*, all checks of mechanisms pass; *learns here*, also, on at least "
    f"{ENOUGH} held-out",
    "queries, the trained model is better than the untrained one and, where a reward trains, than a twin on permuted "
    "rewards",
    "(p < .05 by Holm); *reproduced*, published weights give their authors' number within "
    f"{NEAR:g} (`experiment=published`).",
    "",
)


class Tier(NamedTuple):
    name: str
    reason: str
    """The numbers that it was decided by, and what the next tier lacks."""


def page(runs: Path, settings: Sequence[str]) -> str:
    """The text of docs/systems.md."""
    folders = {system: runs / system.name for system in SYSTEMS}
    done = {system: folder for system, folder in folders.items() if is_done(folder)}
    written = f"python benchmarks/systems.py RUNS{''.join(f' {s}' for s in settings)}"
    lines = [
        *HEAD,
        f"All but the section `How they train` is written by `{written}`.",
        "",
        "| system | tier | by | claim | recipe | variants | mechanisms | minutes | not verified here |",
        "| --- | --- | --- | --- | --- | --- | ---: | ---: | --- |",
    ]
    for system, folder in folders.items():
        measured = (mechanisms(folder), f"{minutes(folder):.1f}") if system in done else ("", "")
        recipe = f"`experiment={system.name}`"
        cells = [system.title, *tier(system, runs), system.claim, recipe, system.variants, *measured, system.open]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *kept()]
    for system, folder in done.items():
        lines += ["", f"## {system.title}", "", f"`rl-rerank run experiment={system.name} scale=cpu`", ""]
        lines += [*results(system, metrics(folder)), *learned(system), ""]
        lines.append((folder / "mechanism/checks.md").read_text().rstrip())
    return "\n".join([*lines, ""])


def is_done(folder: Path) -> bool:
    return all((folder / file).is_file() for file in ("mechanism/checks.json", "evaluate/metrics.json"))


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluate/metrics.json").read_text(encoding="utf-8"))


def checks(folder: Path) -> list[dict[str, Any]]:
    """The findings about mechanisms."""
    found = json.loads((folder / "mechanism/checks.json").read_text(encoding="utf-8"))
    return [row for row in found if not row["is_quality"]]


def mechanisms(folder: Path) -> str:
    """How many of the checks pass."""
    found = checks(folder)
    return f"{sum(row['passed'] for row in found)} of {len(found)}"


def tier(system: System, runs: Path) -> Tier:
    """The highest tier that a system's runs show, and by which numbers."""
    if system.published is not None and (found := reproduced(system.published, runs / f"{system.name}-published")):
        return Tier("reproduced", found)
    folder = runs / system.name
    if not is_done(folder):
        return Tier("not run", "")
    if not checks(folder) or not all(row["passed"] for row in checks(folder)):
        return Tier("none", f"{mechanisms(folder)} checks of mechanisms pass")
    if not system.learns:
        return Tier("mechanics", "nothing is trained")
    has_learned, reason = learns(system, metrics(folder))
    return Tier("learns here" if has_learned else "mechanics", reason)


def learns(system: System, found: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the trained model is better than the rows that it has to beat, and the numbers."""
    [count] = [row["num_queries"] for row in found["rows"] if row["run"] == system.learns]
    if count < ENOUGH:
        return False, f"{count} held-out queries"
    wanted = baselines(system.name)
    if "" in wanted:
        return False, "no twin on permuted rewards"
    said: list[str] = []
    for baseline in wanted:
        pairs = [row for row in found["comparisons"] if (row["system"], row["baseline"]) == (system.learns, baseline)]
        if not pairs:
            return False, f"{system.learns} is not compared with {baseline}"
        [row] = pairs
        said.append(f"{row['measure']} {row['difference']:+.3f} against {baseline}, p = {row['p_value_holm']:.2g}")
        if row["difference"] <= 0 or row["p_value_holm"] >= LEVEL:
            return False, said[-1]
    return True, f"{'; '.join(said)} ({count} queries)"


def baselines(name: str) -> list[str]:
    """The rows that a trained model has to beat: "untrained" and, where a reward trains, the row of a twin on permuted
    rewards; an empty name if there is none."""
    config = compose("run", [f"experiment={name}", "scale=cpu", "report_to=[]"])
    assert isinstance(config, Config)
    stages = config.stages
    rewarded = {n: stage for n, stage in stages.items() if isinstance(stage, GRPOStage)}
    if not rewarded:
        return ["untrained"]
    permuted = {n for n, stage in rewarded.items() if stage.permute_rewards}
    ranked = [n for n, s in stages.items() if isinstance(s, RerankStage) and trained(s.model)[0] in permuted]
    return ["untrained", *(ranked[:1] or [""])]


def reproduced(published: Published, folder: Path) -> str:
    """What a run of published weights gives, if it is their authors' number; empty if not, or without such a run."""
    if not (folder / "evaluate/metrics.json").is_file():
        return ""
    [row] = [row for row in metrics(folder)["rows"] if row["run"] == "published"]
    value = row["mean"].get(published.measure)
    if value is None or row["num_queries"] != published.queries or abs(value - published.value) > NEAR:
        return ""
    return f"{published.measure} {value:.4f}, published {published.value:.4f}: {published.of}"


def kept() -> list[str]:
    """The lines of the page's section that is written by hand."""
    lines = (DOCS / "systems.md").read_text(encoding="utf-8").splitlines()
    first = lines.index("## How they train")
    end = next((number for number in range(first + 1, len(lines)) if lines[number].startswith("## ")), len(lines))
    return "\n".join(lines[first:end]).rstrip().split("\n")


def minutes(folder: Path) -> float:
    """That the stages took, as the ledger has it."""
    return sum({row["stage"]: row["seconds"] for row in read_jsonl(folder / "ledger.jsonl")}.values()) / 60


def results(system: System, found: Mapping[str, Any]) -> list[str]:
    """The evaluation's rows, then its comparisons; without values if there are too few queries."""
    count = len(next(iter(found["per_query"].values())))
    if few := too_few(count):
        return [f"Held-out queries of the data at hand: {few}."]
    measure = found["measures"][0]
    rows = {row["run"]: row for row in found["rows"]}
    shown = [rows[name] for name in ("first_stage", *system.stages) if name in rows]
    values = ", ".join(f"{row['label']} {row['mean'][measure]:.3f}" for row in shown)
    lines = [f"{measure} on {count} held-out queries of the data at hand: {values}."]
    for row in found["comparisons"]:
        low, high = row["interval"]
        lines.append(
            f"{rows[row['system']]['label']} against {rows[row['baseline']]['label']}: {row['difference']:+.3f} "
            f"[{low:+.3f}, {high:+.3f}], p = {row['p_value']:.3g}, by Holm {row['p_value_holm']:.3g}."
        )
    return lines


def learned(system: System) -> list[str]:
    """What its path teaches where it was trained for longer; empty where it was not."""
    record = DOCS / f"experiments/systems/{system.name}.jsonl"
    if not record.exists():
        return []
    values: dict[str, dict[str, float]] = {}
    for row in read_jsonl(record):
        values.setdefault(row["system"], {})[row["qid"]] = row["nDCG@10"]
    last = next(name for name in reversed(system.stages) if name in values and name != "fused")
    queries = list(values["untrained"])
    test = paired_test(*([values[name][qid] for qid in queries] for name in (last, "untrained")), seed=1)
    means = ", ".join(
        f"{name} {statistics.fmean(values[name].values()):.3f}" for name in ("first_stage", "untrained", last)
    )
    p_value = "p < .001" if test.p_value < 0.001 else f"p = {test.p_value:.2g}"
    return [
        f"Trained on wikiqa, nDCG@10 on {len(queries)} of its test queries: {means}; {last} against untrained "
        f"{test.difference:+.3f}, {p_value}. Commands and earlier runs are in docs/experiments.md; every query's "
        f"values in docs/{record.relative_to(DOCS)}."
    ]
