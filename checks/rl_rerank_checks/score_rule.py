"""ERank's mechanism: a score counts as much as the model is sure of it."""

import dataclasses
import statistics
from dataclasses import dataclass

from rl_rerank.evaluation.answers import RANKINGS
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.types import Completion, Prompt


@dataclass(frozen=True)
class ScoreRule:
    """A stage with rule=weighted ranks by s * p(s): every ranked score is the written one times a probability."""

    stage: str

    def __call__(self, run: Run) -> list[Finding]:
        paradigm = run.paradigm(self.stage)
        if not isinstance(paradigm, PointwiseGraded) or paradigm.rule != "weighted":
            raise LookupError(f"stage {self.stage!r} does not weight written scores; it needs rule=weighted")
        plain = dataclasses.replace(paradigm, rule="plain")
        ranked = {row["qid"]: row["raw_scores"] for row in run.rows(self.stage, RANKINGS)}
        sure, wrong, equal = [], 0, 0
        for qid, rows in run.asked(self.stage).items():
            for row in rows:
                [docid] = row["docids"]
                said = plain.parse(Prompt(qid, (docid,), ()), Completion(row["text"]), strict=False).scores
                if not said or docid not in ranked[qid]:
                    wrong += bool(said) != (docid in ranked[qid])
                    continue
                written, score = said[docid], ranked[qid][docid]
                wrong += not 0 <= score <= written
                equal += score == written > 0
                sure += [score / written] if written else []
        mean = statistics.fmean(sure) if sure else 0.0
        count = f"{len(sure)} scores above 0; {wrong} scores cannot be such a product"
        return [
            Finding(
                f"{self.stage}: documents are ranked by s times p(s)",
                bool(sure) and wrong == 0 and equal < len(sure),
                f"p(s) is {mean:.3f} on average over {count}",
            )
        ]
