"""FIRST's mechanism: one forward orders a window, and nothing is generated."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.windows import windows
from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class OneForward:
    """A first_token stage scores each window once, with a score for every document of it and no generated token.

    An engine that returns only its likeliest tokens leaves out the letters of documents that it takes for irrelevant;
    one that generates answers after all costs four tokens a document.
    """

    stage: str

    def refuse(self, run: Run) -> None:
        _first_token(run, self.stage)

    def __call__(self, run: Run) -> list[Finding]:
        paradigm, examples, asked = _first_token(run, self.stage), run.examples(self.stage), run.asked(self.stage)
        stride = paradigm.stride or paradigm.window // 2
        spans = {q: windows(len(examples[q].docids), paradigm.window, stride) * paradigm.passes for q in examples}
        shown = {q: [len(row["docids"]) for row in asked.get(q, ())] for q in examples}
        right = sum(shown[q] == [end - start for start, end in spans[q]] for q in examples)
        rows = [row for group in asked.values() for row in group]
        scored = sum(_has_scores(row, paradigm) for row in rows)
        summary = json.loads(run.file(self.stage, "summary.json").read_text(encoding="utf-8"))
        generated = summary["cost"]["completion_tokens"]
        return [
            Finding(f"{self.stage}: no token is generated", generated == 0, f"{generated} in {len(rows)} prompts"),
            Finding(
                f"{self.stage}: each document of a window has a score of its own",
                scored == len(rows),
                f"{scored} of {len(rows)} windows",
            ),
            Finding(
                f"{self.stage}: windows of {paradigm.window} by {stride} from the back, one prompt for each",
                right == len(shown),
                f"{right} of {len(shown)} queries, at most {max(map(len, shown.values()), default=0)} windows",
            ),
        ]


def _first_token(run: Run, stage: str) -> FirstToken:
    paradigm = run.paradigm(stage)
    if not isinstance(paradigm, FirstToken):
        raise LookupError(f"stage {stage!r} asks with {paradigm.name}, not with first_token")
    return paradigm


def _has_scores(row: Mapping[str, Any], paradigm: FirstToken) -> bool:
    """Whether the documents have finite scores that are not all one."""
    found = row["continuations"] or {}
    scores = [found.get(text, math.nan) for text in paradigm.continuations[: len(row["docids"])]]
    return not row["text"] and all(map(math.isfinite, scores)) and len(set(scores)) > 1
