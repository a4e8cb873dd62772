"""The teacher that knows the judgments: the answer is the one that the labels call for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.stages.synth import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.questions import questions


@dataclass(frozen=True)
class Labels:
    """Answers every prompt with `paradigm.target`."""

    def __call__(
        self,
        examples: Sequence[RankingExample],
        paradigm_name: str,
        paradigm: Paradigm,
        count: int,
        context: StepContext,
    ) -> Iterator[dict[str, Any]]:
        """Rows in a seeded order, as many as there are prompts."""
        for example, prompt in questions(examples, paradigm, context.stage.seed):
            if context.counts["kept"] >= count:
                return
            context.counts["kept"] += 1
            yield {
                "qid": example.qid,
                "paradigm": paradigm_name,
                "docids": list(prompt.docids),
                "target": paradigm.target(example, prompt),
                "teacher": "labels",
            }
