"""Fusing the runs of earlier rerank stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl_rerank.config import Config, FusionConfig
from rl_rerank.data import Store
from rl_rerank.evaluation import answers, fusion_weight
from rl_rerank.evaluation.cost import Cost, read_cost
from rl_rerank.evaluation.fusion_weight import ChosenWeight
from rl_rerank.io.files import read_jsonl
from rl_rerank.ranking import fusion
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.types import Ranking


def chosen_weight(config: Config, name: str, stage: RerankStage, store: Store) -> ChosenWeight | None:
    """Choose the stage's fusion weight on development queries; None if it is given, or nothing is fused."""
    if stage.fusion is None or (tuned := stage.fusion.tuned) is None:
        return None
    place = f"{name}.fusion.weight.dev"
    first, *others = (rankings(config, run, place) for run in tuned.dev)
    second = others[0] if others else {e.qid: fusion.first_stage(e) for e in store.examples("dev")}
    _check_queries(place, (*tuned.dev, "the first stage")[:2], first.keys(), second.keys())
    qrels = store.qrels("dev")
    return fusion_weight.choose(first, second, qrels, method=stage.fusion.method, measure=tuned.measure, runs=tuned.dev)


def fused(config: Config, name: str, stage: RerankStage) -> list[Ranking]:
    """Fuse the two runs of `stage.fuse`, whose weight is known."""
    first, second = (rankings(config, run, f"{name}.fuse") for run in stage.fuse)
    _check_queries(f"{name}.fuse", stage.fuse, first.keys(), second.keys())
    how = stage.fusion or FusionConfig()
    return [fusion.fuse(ranking, second[qid], how.method, how.known_weight) for qid, ranking in first.items()]


def fused_cost(config: Config, stage: RerankStage) -> Cost:
    """What the runs took that are fused; nothing where none are."""
    files = [Path(config.run_dir) / run / "summary.json" for run in stage.fuse]
    return sum((read_cost(file) for file in files), Cost())


def _check_queries(place: str, runs: Sequence[str], first: object, second: object) -> None:
    if first != second:
        raise ValueError(f"stages.{place}: {' and '.join(runs)} have not ranked the same queries")


def rankings(config: Config, run: str, place: str) -> dict[str, Ranking]:
    """Read the rankings of an earlier rerank stage: qid -> ranking.

    Args:
        place: the setting that names it, for the error.
    """
    path = Path(config.run_dir) / run / answers.RANKINGS
    if not path.is_file():
        raise FileNotFoundError(f"stages.{place} reads {path}, which does not exist; run that rerank stage first")
    found = [Ranking(**{**row, "docids": tuple(row["docids"])}) for row in read_jsonl(path)]
    return {ranking.qid: ranking for ranking in found}
