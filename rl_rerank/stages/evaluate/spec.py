"""Measuring runs: the stage's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rl_rerank.config import Reference, StageConfig
from rl_rerank.evaluation.measures import check_judgments
from rl_rerank.stages.rerank.spec import RerankStage

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class EvaluateStage(StageConfig):
    """Measure runs."""

    leaves: ClassVar[str] = "measures"

    measures: list[str] = field(default_factory=lambda: ["nDCG@10", "RR@10", "AP"])
    runs: list[str] = field(default_factory=list)
    """Names of rerank stages, in table order; empty: all before this stage. The first stage and the untrained model
    follow in any case, where they have been ranked."""
    comparisons: list[list[str]] = field(default_factory=list)
    """Pairs [system, baseline] to be tested on the first measure: names of rerank stages, or of `seeds`."""
    seeds: dict[str, list[str]] = field(default_factory=dict)
    """A name -> the rerank stages of one system that was trained with several seeds. It gets a row with the mean over
    them, an interval over queries and seeds, and can be compared."""
    force: bool = False
    """Also test pairs that were made under different protocols; the table then says so."""

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        for run in self.runs or [name for name, stage in before.items() if stage.leaves == "a run"]:
            yield Reference("runs", run, "a run")
        for system, runs in self.seeds.items():
            for run in runs:
                yield Reference(f"seeds.{system}", run, "a run")
        for run in (run for pair in self.comparisons for run in pair if run not in self.seeds):
            yield Reference("comparisons", run, "a run")

    def reads(self, before: Mapping[str, StageConfig]) -> set[str]:
        """Beside the runs that it names, the baselines' and the training records of rewards."""
        beside = {name for name, stage in before.items() if stage.is_baseline or stage.logs_rewards}
        named = {r.stage for r in self.references(before) if r.setting != "comparisons"}
        return named | beside

    def measured(self, before: Mapping[str, StageConfig]) -> dict[str, RerankStage]:
        """The rerank stages whose runs are measured, in table order."""
        ranked = _ranked(before)
        return {run: ranked[run] for run in self.runs} if self.runs else ranked

    def check(self, name: str, plugins: Plugins) -> None:
        for measure in self.measures:
            check_judgments(measure)
        ranked, place = _ranked(plugins.config.before(self)), f"evaluate stage {name!r}"
        for run in self.runs:
            if run not in ranked:
                known = ", ".join(ranked) or "none"
                raise LookupError(f"{place}: runs names {run!r}, which is no rerank stage; there are: {known}")
        if not ranked:
            raise ValueError(f"{place}: no rerank stage comes before it, so there is no run to measure")
        known = {n: s for n, s in ranked.items() if n in (self.runs or ranked) or s.is_baseline}
        for system, runs in self.seeds.items():
            self._check_seeds(f"{place}: seeds.{system}", system, runs, known)
        self._check_comparisons(place, known)

    def _check_seeds(self, place: str, system: str, runs: Sequence[str], known: Mapping[str, RerankStage]) -> None:
        if system in known:
            raise ValueError(f"{place}: a rerank stage has the same name; a system of several runs needs its own")
        if len(set(runs)) < 2 or len(set(runs)) < len(runs):
            raise ValueError(f"{place} must name two or more rerank stages, each once; got {runs}")
        for run in runs:
            if run not in known:
                raise LookupError(f"{place} names {run!r}, which is not among the runs: {', '.join(known)}")
        if len(splits := sorted({known[run].split for run in runs})) > 1:
            raise ValueError(f"{place}: its runs rank the queries of different splits, {', '.join(splits)}")

    def _check_comparisons(self, place: str, known: Mapping[str, RerankStage]) -> None:
        systems = {run: [run] for run in known} | self.seeds
        for pair in self.comparisons:
            if len(pair) != 2:
                raise ValueError(f"{place}: a comparison is a pair [system, baseline]; got {pair}")
            for system in pair:
                if system not in systems:
                    named = f"{place}: comparisons names {system!r}"
                    raise LookupError(f"{named}, which is not among the runs: {', '.join(systems)}")
            if pair[0] == pair[1]:
                raise ValueError(
                    f"{place}: comparisons names {pair[0]!r} twice in a pair; nothing is tested against itself"
                )
            one, other = (known[systems[system][0]].split for system in pair)
            if one != other:
                raise ValueError(
                    f"{place}: {pair[0]!r} and {pair[1]!r} cannot be compared, because they rank the queries of "
                    f"different splits, {one!r} and {other!r}"
                )

    def results(self, folder: Path) -> list[str]:
        path = folder / "table.md"
        return [path.read_text(encoding="utf-8")] if path.is_file() else []


def _ranked(before: Mapping[str, StageConfig]) -> dict[str, RerankStage]:
    return {name: stage for name, stage in before.items() if isinstance(stage, RerankStage)}
