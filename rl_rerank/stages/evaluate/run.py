"""Measure the runs of the rerank stages."""

import itertools
import json
import logging
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_rerank.config import Config
from rl_rerank.data import prepare
from rl_rerank.data.store import Store
from rl_rerank.evaluation import protocol, records, references
from rl_rerank.evaluation.comparisons import compare
from rl_rerank.evaluation.cost import Cost
from rl_rerank.evaluation.fusion_weight import ChosenWeight
from rl_rerank.evaluation.groups import group_means
from rl_rerank.evaluation.intervals import intervals
from rl_rerank.evaluation.judged import warn_if_unjudged
from rl_rerank.evaluation.measures import Evaluation, evaluate, is_sum
from rl_rerank.evaluation.seeds import interval_over_seeds
from rl_rerank.evaluation.statistics import rise
from rl_rerank.evaluation.table import table
from rl_rerank.io import trec
from rl_rerank.io.files import read_jsonl, write_json, write_text
from rl_rerank.stages.evaluate.spec import EvaluateStage
from rl_rerank.stages.plugins import Plugins
from rl_rerank.stages.rerank.spec import FUSION, RerankStage

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: EvaluateStage) -> None:
    """Write `metrics.json` and `table.md` for the rerank stages' runs."""
    run_dir = Path(config.run_dir)
    stage.check(name, Plugins(config))
    chosen = stage.measured(config.before(stage))
    chosen |= _references(config, name, chosen)
    systems = {run_name: [run_name] for run_name in chosen} | stage.seeds
    protocols = {run_name: protocol.read(run_dir / run_name) for run_name in chosen}
    forced = _protocol_differences(name, stage, protocols, systems)
    store = prepare(config.data, run_dir / "data")
    evaluations: dict[str, Evaluation] = {}
    for run_name, reranked in chosen.items():
        path = _existing(run_dir / run_name / "run.trec", name, run_name)
        found, qrels = trec.read_run(path), store.qrels(reranked.split)
        warn_if_unjudged(run_name, found, qrels)
        evaluations[run_name] = evaluate(found, qrels, stage.measures)
        if missing := evaluations[run_name].missing:
            logger.warning("run %s lacks %d judged queries, which count 0", run_name, len(missing))
    any_evaluation = next(iter(evaluations.values()))
    labels = _labels(chosen)
    rows = [_row(config, name, run_name, chosen[run_name], labels[run_name], e) for run_name, e in evaluations.items()]
    of_system = {system: [evaluations[r] for r in run_names] for system, run_names in systems.items()}
    comparisons = compare(of_system, stage.comparisons, stage.measures[0], config.seed)
    over_seeds = [c for c in comparisons if {c.system, c.baseline} & stage.seeds.keys()]
    seeds_rows = [_row_over_seeds(config, n, rows, stage.seeds[n], of_system[n]) for n in stage.seeds]
    computed = list(_computed(config, stage, chosen, store))
    groups = {split: store.groups(split) for split in {s.split for s in chosen.values()}}
    measured = [
        *((labels[n], chosen[n].split, [e]) for n, e in evaluations.items()),
        *((row.label, chosen[row.runs[0]].split, of_system[row.system]) for row in seeds_rows),
        *((row.label, split, [e]) for row, split, e in computed),
    ]
    grouped = [
        group_means(label, [e.per_query for e in runs], groups[split], config.seed) for label, split, runs in measured
    ]
    metrics = records.Metrics(
        provider=any_evaluation.provider,
        measures=list(any_evaluation.mean),
        rows=rows,
        references=[row for row, _, _ in computed],
        per_query={run_name: e.per_query for run_name, e in evaluations.items()},
        missing={run_name: e.missing for run_name, e in evaluations.items()},
        protocols=protocols,
        forced=forced,
        comparisons=[c for c in comparisons if c not in over_seeds],
        over_seeds=records.OverSeeds(
            rows=seeds_rows,
            comparisons=over_seeds,
        ),
        format=_formats(run_dir, chosen),
        training=_training(config),
        weights=_weights(run_dir, chosen),
        groups=[means for means in grouped if means is not None],
    )
    write_json(run_dir / name / records.FILE, metrics.to_json())
    write_text(run_dir / name / "table.md", table(metrics))
    logger.info("stage %s:\n%s", name, table(metrics))


def _references(config: Config, name: str, chosen: Mapping[str, RerankStage]) -> dict[str, RerankStage]:
    """Earlier stages that ranked with the first stage or the untrained model, where they have run."""
    earlier = itertools.takewhile(lambda named: named[0] != name, config.stages.items())
    splits = {s.split for s in chosen.values()}
    return {
        run_name: s
        for run_name, s in earlier
        if isinstance(s, RerankStage)
        and run_name not in chosen
        and s.split in splits
        and s.is_baseline
        and all((Path(config.run_dir) / run_name / file).is_file() for file in ("run.trec", "summary.json"))
    }


def _protocol_differences(
    name: str,
    stage: EvaluateStage,
    protocols: Mapping[str, protocol.Protocol | None],
    systems: Mapping[str, Sequence[str]],
) -> list[str]:
    """One sentence for each pair of runs compared under different protocols. Refused without `force`."""
    compared = [(systems[system][0], run_name) for system, other in stage.comparisons for run_name in systems[other]]
    compared += [(run_names[0], run_name) for run_names in systems.values() for run_name in run_names[1:]]
    found = [
        f"{one} and {other} were made under different protocols: {'; '.join(reasons)}"
        for one, other in dict.fromkeys(compared)
        if (reasons := protocol.differences(protocols[one], protocols[other]))
    ]
    if found and not stage.force:
        raise ValueError(
            f"evaluate stage {name!r}: {'. '.join(found)}. Run the rerank stages under one protocol, or compare "
            f"all the same with stages.{name}.force=true"
        )
    return found


def _existing(path: Path, name: str, run_name: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"evaluate stage {name!r}: {path} does not exist; run the rerank stage {run_name!r} first"
        )
    return path


def _labels(chosen: Mapping[str, RerankStage]) -> dict[str, str]:
    labels = {run_name: stage.label or run_name for run_name, stage in chosen.items()}
    shared = [label for label, count in Counter(labels.values()).items() if count > 1]
    return {run_name: f"{label} ({run_name})" if label in shared else label for run_name, label in labels.items()}


def _row(
    config: Config, name: str, run_name: str, stage: RerankStage, label: str, result: Evaluation
) -> records.RunRow:
    path = _existing(Path(config.run_dir) / run_name / "summary.json", name, run_name)
    summary = json.loads(path.read_text(encoding="utf-8"))
    num_prompts, cost = summary["num_prompts"], summary.get("cost")
    return records.RunRow(
        run=run_name,
        label=label,
        role=stage.role,
        **_measured(config, result),
        # A first-stage row asks no model: it has no share, rather than a share of 0.
        malformed=summary["num_malformed"] / num_prompts if num_prompts else None,
        fallback=summary["num_fallbacks"] / num_prompts if num_prompts else None,
        cost=cost and Cost(**cost),
    )


def _measured(config: Config, result: Evaluation) -> dict[str, Any]:
    return {"mean": result.mean, "interval": intervals(result, config.seed), "num_queries": len(result.per_query)}


def _computed(
    config: Config, stage: EvaluateStage, chosen: Mapping[str, RerankStage], store: Store
) -> Iterator[tuple[records.ReferenceRow, str, Evaluation]]:
    """(row, split, values) of the candidates' best order, and of the first stage where it has no run."""
    splits = list(dict.fromkeys(s.split for s in chosen.values()))
    for split in splits:
        examples, qrels = store.examples(split), store.qrels(split)
        where = f", {split}" if len(splits) > 1 else ""
        runs = [
            ("oracle", f"oracle: best order of the candidates{where}", references.oracle(examples.outlines(), qrels))
        ]
        if not any(s.split == split and s.role == "first_stage" for s in chosen.values()):
            runs.insert(0, ("first_stage", f"first stage{where}", references.first_stage(examples.outlines())))
        for role, label, ranked in runs:
            result = evaluate(ranked, qrels, stage.measures)
            missing = len(result.missing)
            row = records.ReferenceRow(label=label, role=role, num_missing=missing, **_measured(config, result))
            yield row, split, result


def _row_over_seeds(
    config: Config,
    system: str,
    rows: Sequence[records.RunRow],
    run_names: Sequence[str],
    evaluations: Sequence[Evaluation],
) -> records.SeedsRow:
    measures = evaluations[0].mean
    values = {m: [[row[m] for row in e.per_query.values()] for e in evaluations] for m in measures if not is_sum(m)}
    return records.SeedsRow(
        label=f"{system} (mean of {len(run_names)} seeds)",
        system=system,
        runs=run_names,
        mean={m: statistics.fmean(e.mean[m] for e in evaluations) for m in measures},
        interval={m: interval_over_seeds(runs, config.seed) for m, runs in values.items()},
        num_queries=len(evaluations[0].per_query),
        num_missing=len({qid for e in evaluations for qid in e.missing}),
        malformed=_mean_share([row.malformed for row in rows if row.run in run_names]),
        fallback=_mean_share([row.fallback for row in rows if row.run in run_names]),
    )


def _mean_share(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return statistics.fmean(known) if known else None


def _formats(run_dir: Path, chosen: Mapping[str, RerankStage]) -> dict[str, dict[str, records.FormatShare]]:
    paths = {run_name: run_dir / run_name / "format.json" for run_name in chosen}
    found = {n: json.loads(path.read_text(encoding="utf-8")) for n, path in paths.items() if path.is_file()}
    return {n: records.formats(content) for n, content in found.items() if content}


def _weights(run_dir: Path, chosen: Mapping[str, RerankStage]) -> dict[str, ChosenWeight]:
    tuned = [name for name, stage in chosen.items() if stage.fusion is not None and stage.fusion.tuned is not None]
    summaries = {n: json.loads((run_dir / n / "summary.json").read_text(encoding="utf-8")) for n in tuned}
    return {name: ChosenWeight(**summary[FUSION]) for name, summary in summaries.items()}


def _training(config: Config) -> dict[str, records.RewardTrend]:
    found: dict[str, records.RewardTrend] = {}
    for name, stage in config.stages.items():
        path = Path(config.run_dir) / name / "metrics.jsonl"
        if not stage.logs_rewards or not path.is_file():
            continue
        rewards = [row["reward"] for row in read_jsonl(path) if row.get("reward") is not None]
        if rewards:
            control = getattr(stage, "permute_rewards", False)
            found[name] = records.RewardTrend(*rise(rewards), steps=len(rewards), control=control)
    return found
