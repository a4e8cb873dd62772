"""RankList's measures: how well rankings reproduce ordinal lists, and which loss does so better."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rl_rerank.evaluation.answers import RANKINGS
from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.statistics import paired_test
from rl_rerank.metrics.agreement import kendall_tau, pairwise_agreement
from rl_rerank.stages.check.finished_run import Finding, Run

LEVEL = 0.05


@dataclass(frozen=True)
class GoldAgreement:
    """A rerank stage agrees more with a gold ranking than another stage does, by Kendall's tau and a paired test.

    The numbers are the mean tau of both over queries, and their ranking accuracy: the share of the pairs of documents
    that stand in the gold order. Documents with equal gold scores are no pair, and equal scores are half right.
    """

    gold: str
    """The rerank stage whose scores are the gold order."""
    comparisons: Sequence[Sequence[str]]
    """Pairs [better, worse] of rerank stages."""

    def __post_init__(self) -> None:
        if not self.comparisons or any(len(pair) != 2 for pair in self.comparisons):
            raise ValueError(f"comparisons must be pairs [better, worse]; got {list(map(list, self.comparisons))}")

    def refuse(self, run: Run) -> None:
        split = run.rerank(self.gold).split
        for stage in dict.fromkeys(stage for pair in self.comparisons for stage in pair):
            if (own := run.rerank(stage).split) != split:
                raise ValueError(f"{stage!r} ranks split {own!r}, {self.gold!r} {split!r}; compare one split")

    def __call__(self, run: Run) -> list[Finding]:
        gold = self._scores(run, self.gold)
        found: list[Finding] = []
        for better, worse in self.comparisons:
            what = f"{better}: a higher Kendall's tau with {self.gold} than {worse} (p < .05)"
            ours, theirs = self._scores(run, better), self._scores(run, worse)
            qids = [q for q in gold if len(set(gold[q].values())) > 1 and q in ours and q in theirs]
            if reason := too_few(len(qids)):
                found.append(Finding(what, False, reason, is_quality=True))
                continue
            taus = [[kendall_tau(scores[q], gold[q]) for q in qids] for scores in (ours, theirs)]
            right = [[pairwise_agreement(scores[q], gold[q]) for q in qids] for scores in (ours, theirs)]
            tested = paired_test(*taus, seed=run.config.seed)
            said = (
                f"{statistics.fmean(taus[0]):.3f} and {statistics.fmean(taus[1]):.3f} on {len(qids)} queries, "
                f"p = {tested.p_value:.3g}; {statistics.fmean(right[0]):.1%} and {statistics.fmean(right[1]):.1%} "
                "of the pairs in order"
            )
            is_gain = tested.difference > 0 and tested.p_value < LEVEL
            found.append(Finding(what, is_gain, said, is_quality=True))
        return found

    def _scores(self, run: Run, stage: str) -> dict[str, dict[str, float]]:
        """qid -> docid -> the model's own score, or the place in its order."""
        return {row["qid"]: row["raw_scores"] or row["scores"] for row in run.rows(stage, RANKINGS)}
