"""Whether answers have the asked form."""

import json
from dataclasses import dataclass

from rl_rerank.evaluation.records import formats
from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class FormatRate:
    """The share of well-formed greedy answers among a rerank stage's `format_prompts`."""

    stage: str
    paradigm: str
    at_least: float = 0.9

    def __call__(self, run: Run) -> list[Finding]:
        found = formats(json.loads(run.file(self.stage, "format.json").read_text(encoding="utf-8")))
        if self.paradigm not in found:
            raise LookupError(f"stage {self.stage!r} measured no format of {self.paradigm}; set its format_prompts")
        measured = found[self.paradigm]
        share = measured.share or 0.0
        what = f"{self.stage}: at least {self.at_least:.0%} of {self.paradigm} answers are well formed"
        said = f"{share:.0%} ({measured.well_formed} of {measured.prompts})"
        return [Finding(what, share >= self.at_least, said, is_quality=True)]
