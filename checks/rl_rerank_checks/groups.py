"""GroupRank's mechanism: random disjoint groups, a mean over repeats, fusion with the first stage."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl_rerank.evaluation.answers import RANKINGS
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.ranking import fusion
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.types import Ranking, RankingExample


@dataclass(frozen=True)
class Groups:
    """A rerank stage's groups part the candidates once a repeat, differently each time and not along the first stage.

    With `fused`, the name of a rerank stage that fuses with the first stage by a weight, its scores are recomputed.
    """

    stage: str
    fused: str | None = None

    def __call__(self, run: Run) -> list[Finding]:
        paradigm = run.paradigm(self.stage)
        if not isinstance(paradigm, Groupwise):
            raise LookupError(f"stage {self.stage!r} asks with {paradigm.name}, not with groups")
        examples, asked = run.examples(self.stage), run.asked(self.stage)
        parted = different = along = 0
        for qid, rows in asked.items():
            docids = examples[qid].docids
            count = math.ceil(len(docids) / paradigm.size)
            repeats = [[row["docids"] for row in rows[i : i + count]] for i in range(0, len(rows), count)]
            parted += len(repeats) == paradigm.repeats and all(_parts(groups, docids) for groups in repeats)
            different += len({_unordered(groups) for groups in repeats}) == len(repeats)
            cut = [docids[i : i + paradigm.size] for i in range(0, len(docids), paradigm.size)]
            along += any(_unordered(groups) == _unordered(cut) for groups in repeats)
        findings = [
            Finding(
                f"{self.stage}: {paradigm.repeats} partitions of every query's candidates into groups of at most "
                f"{paradigm.size}",
                parted == len(asked),
                f"{parted} of {len(asked)} queries",
            ),
            Finding(
                f"{self.stage}: groups are random: repeats differ, and they do not follow the first stage",
                different > len(asked) / 2 and along < len(asked) / 2,
                f"all repeats differ for {different} of {len(asked)} queries, {along} have first-stage groups",
            ),
        ]
        return findings if self.fused is None else [*findings, self._fusion(run, self.fused, examples)]

    def _fusion(self, run: Run, name: str, examples: Mapping[str, RankingExample]) -> Finding:
        how = run.rerank(name).fusion
        if how is None:
            raise LookupError(f"stage {name!r} has no fusion")
        alone, fused = ({row["qid"]: row["raw_scores"] for row in run.rows(s, RANKINGS)} for s in (self.stage, name))
        gap = 0.0
        for qid, example in examples.items():
            model = fusion.values(_ranking(qid, alone[qid]), how.method)
            first = fusion.values(fusion.first_stage(example), how.method)
            for docid in example.docids:
                wanted = how.weight * model.get(docid, min(model.values())) + (1 - how.weight) * first[docid]
                gap = max(gap, abs(wanted - fused[qid][docid]))
        shares = f"{how.weight:g} of the mean over repeats and {1 - how.weight:g} of the first stage"
        what = f"{name}: {shares}, by {how.method}"
        return Finding(what, gap < 1e-9, f"largest difference {gap:.1g}")


def _parts(groups: Sequence[Sequence[str]], docids: Sequence[str]) -> bool:
    return sorted(d for group in groups for d in group) == sorted(docids)


def _unordered(groups: Sequence[Sequence[str]]) -> frozenset[frozenset[str]]:
    return frozenset(frozenset(group) for group in groups)


def _ranking(qid: str, scores: dict[str, Any]) -> Ranking:
    return Ranking(qid, tuple(scores), scores, raw_scores=scores)
