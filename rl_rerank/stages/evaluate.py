"""Measure the runs of the rerank stages, or one run file."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_rerank import trec
from rl_rerank.config import Config, EvaluateFiles, EvaluateStage, GRPOStage, RerankStage
from rl_rerank.data import prepare
from rl_rerank.evaluation import protocol
from rl_rerank.evaluation.measures import Evaluation, evaluate, is_sum, parse
from rl_rerank.evaluation.statistics import bootstrap_interval, paired_test, rise
from rl_rerank.evaluation.table import table
from rl_rerank.paths import read_jsonl, write_json, write_text

__all__ = ["evaluate_files", "run", "table"]

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: EvaluateStage) -> None:
    """Write `metrics.json` and `table.md` for the rerank stages' runs."""
    run_dir = Path(config.run_dir)
    for measure in stage.measures:
        parse(measure)
    chosen = _rerank_stages(config, name, stage)
    _check_comparisons(name, stage, chosen)
    protocols = {run_name: protocol.read(run_dir / run_name) for run_name in chosen}
    forced = _protocol_differences(name, stage, protocols)
    store = prepare(config.data, run_dir / "data")
    evaluations: dict[str, Evaluation] = {}
    for run_name, reranked in chosen.items():
        path = _existing(run_dir / run_name / "run.trec", name, run_name)
        evaluations[run_name] = evaluate(trec.read_run(path), store.qrels(reranked.split), stage.measures)
        if missing := evaluations[run_name].missing:
            logger.warning("run %s lacks %d judged queries, which count 0", run_name, len(missing))
    any_evaluation = next(iter(evaluations.values()))
    labels = _labels(chosen)
    metrics = {
        "provider": any_evaluation.provider,
        "measures": list(any_evaluation.mean),
        "rows": [_row(config, name, run_name, labels[run_name], e) for run_name, e in evaluations.items()],
        "per_query": {run_name: e.per_query for run_name, e in evaluations.items()},
        "missing": {run_name: list(e.missing) for run_name, e in evaluations.items()},
        "protocols": {run_name: found and dataclasses.asdict(found) for run_name, found in protocols.items()},
        "forced": forced,
        "comparisons": [_compare(config, stage, pair, evaluations) for pair in stage.comparisons],
        "format": _formats(run_dir, chosen),
        "training": _training(config),
    }
    write_json(run_dir / name / "metrics.json", metrics)
    write_text(run_dir / name / "table.md", table(metrics))
    logger.info("stage %s:\n%s", name, table(metrics))


def evaluate_files(config: EvaluateFiles) -> dict[str, Any]:
    """The values of one run file, also written to `config.output` where given.

    Returns:
        `provider` (distribution -> version), `mean` (measure -> value over all judged queries), `per_query`
        (qid -> measure -> value) and `missing` (judged queries that the run lacks; they count 0).
    """
    for measure in config.measures:
        parse(measure)
    paths = {field: Path(getattr(config, field)) for field in ("run", "qrels")}
    for field, path in paths.items():
        if not path.is_file():
            raise FileNotFoundError(f"{field}={str(path)!r}: there is no such file")
    result = evaluate(trec.read_run(paths["run"]), trec.read_qrels(paths["qrels"]), config.measures)
    if result.num_unjudged:
        logger.warning("%s: %d queries have no judgments and are left out", config.run, result.num_unjudged)
    if result.missing:
        logger.warning("%s lacks %d judged queries, which count 0", config.run, len(result.missing))
    values = {
        "provider": result.provider,
        "mean": result.mean,
        "per_query": result.per_query,
        "missing": list(result.missing),
    }
    if config.output is not None:
        write_json(Path(config.output), values)
    return values


def _rerank_stages(config: Config, name: str, stage: EvaluateStage) -> dict[str, RerankStage]:
    available = {n: s for n, s in config.stages.items() if isinstance(s, RerankStage)}
    for run_name in stage.runs:
        if run_name not in available:
            raise LookupError(
                f"evaluate stage {name!r}: runs names {run_name!r}, which is no rerank stage; "
                f"there are: {', '.join(available) or 'none'}"
            )
    if not available:
        raise ValueError(f"evaluate stage {name!r}: the experiment has no rerank stage, so there is no run to measure")
    return {n: available[n] for n in stage.runs} if stage.runs else available


def _check_comparisons(name: str, stage: EvaluateStage, chosen: Mapping[str, RerankStage]) -> None:
    for pair in stage.comparisons:
        if len(pair) != 2:
            raise ValueError(f"evaluate stage {name!r}: a comparison is a pair [system, baseline]; got {pair}")
        for run_name in pair:
            if run_name not in chosen:
                raise LookupError(
                    f"evaluate stage {name!r}: comparisons names {run_name!r}, which is not among the runs: "
                    f"{', '.join(chosen)}"
                )
        if chosen[pair[0]].split != chosen[pair[1]].split:
            raise ValueError(
                f"evaluate stage {name!r}: {pair[0]!r} and {pair[1]!r} cannot be compared, because they rank the "
                f"queries of different splits, {chosen[pair[0]].split!r} and {chosen[pair[1]].split!r}"
            )


def _protocol_differences(
    name: str, stage: EvaluateStage, protocols: Mapping[str, protocol.Protocol | None]
) -> list[str]:
    """What is compared although it should not be, a sentence a pair. Refused without `force`."""
    found = [
        f"{system} and {baseline} were made under different protocols: {'; '.join(reasons)}"
        for system, baseline in stage.comparisons
        if (reasons := protocol.differences(protocols[system], protocols[baseline]))
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


def _row(config: Config, name: str, run_name: str, label: str, result: Evaluation) -> dict[str, Any]:
    path = _existing(Path(config.run_dir) / run_name / "summary.json", name, run_name)
    summary = json.loads(path.read_text(encoding="utf-8"))
    num_prompts = summary["num_prompts"]
    return {
        "run": run_name,
        "label": label,
        "mean": result.mean,
        "interval": {
            m: bootstrap_interval([row[m] for row in result.per_query.values()], config.seed)
            for m in result.mean
            if not is_sum(m)
        },
        "num_queries": len(result.per_query),
        # A first-stage row asks no model: it has no share, rather than a share of 0.
        "malformed": summary["num_malformed"] / num_prompts if num_prompts else None,
        "fallback": summary["num_fallbacks"] / num_prompts if num_prompts else None,
        "cost": summary.get("cost"),
    }


def _compare(
    config: Config, stage: EvaluateStage, pair: Sequence[str], evaluations: Mapping[str, Evaluation]
) -> dict[str, Any]:
    measure = stage.measures[0]
    system, baseline = (evaluations[run_name].per_query for run_name in pair)
    test = paired_test([system[q][measure] for q in system], [baseline[q][measure] for q in system], config.seed)
    return {"system": pair[0], "baseline": pair[1], "measure": measure, **test._asdict()}


def _formats(run_dir: Path, chosen: Mapping[str, RerankStage]) -> dict[str, Any]:
    paths = {run_name: run_dir / run_name / "format.json" for run_name in chosen}
    found = {n: json.loads(path.read_text(encoding="utf-8")) for n, path in paths.items() if path.is_file()}
    return {n: content for n, content in found.items() if content}


def _training(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, stage in config.stages.items():
        path = Path(config.run_dir) / name / "metrics.jsonl"
        if not isinstance(stage, GRPOStage) or not path.is_file():
            continue
        rewards = [row["reward"] for row in read_jsonl(path) if row.get("reward") is not None]
        if rewards:
            first, last, p = rise(rewards)
            found[name] = {
                "reward_first_third": first,
                "reward_last_third": last,
                "p_value": p,
                "steps": len(rewards),
                "control": stage.permute_rewards,
            }
    return found
