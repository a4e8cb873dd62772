"""ReasonRank's mechanism: windows from the back, and a recall that looks at what moves on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.windows import windows
from rl_rerank.reward.build import reward_terms
from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class Sliding:
    """A listwise stage asks about the right windows in turn, and training's recall counts what a window passes on."""

    stage: str

    def __call__(self, run: Run) -> list[Finding]:
        paradigm = run.paradigm(self.stage)
        if not isinstance(paradigm, Listwise) or paradigm.window is None:
            raise LookupError(f"stage {self.stage!r} does not ask about lists in windows")
        examples, asked = run.examples(self.stage), run.asked(self.stage)
        window, stride = paradigm.window, paradigm.stride or paradigm.window // 2
        right = sum(_slides(asked[q], windows(len(examples[q].docids), window, stride)) for q in asked)
        calls = max(map(len, asked.values()))
        what = (
            f"{self.stage}: windows of {window} by {stride} from the back, "
            "each with the documents that the one before passed on"
        )
        rewards: list[Any] = [term.reward for term in reward_terms(run.config)]
        cutoffs = [reward.recall_k or window // 2 for reward in rewards if hasattr(reward, "recall_k")]
        return [
            Finding(what, right == len(asked), f"{right} of {len(asked)} queries, at most {calls} calls"),
            Finding(
                f"the reward's recall looks at the {stride} documents that move on",
                cutoffs == [stride],
                f"recall at {', '.join(map(str, cutoffs)) or 'no cutoff: no reward has a recall_k'}",
            ),
        ]


def _slides(rows: Sequence[dict[str, Any]], spans: Sequence[tuple[int, int]]) -> bool:
    """Whether the prompts' documents are those of the windows, neighbours sharing as many as their spans do."""
    if [len(row["docids"]) for row in rows] != [end - start for start, end in spans]:
        return False
    shared = [len({*a["docids"]} & {*b["docids"]}) for a, b in pairwise(rows)]
    return shared == [max(0, end - start) for (start, _), (_, end) in pairwise(spans)]
