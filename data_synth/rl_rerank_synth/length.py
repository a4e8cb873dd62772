"""Keeps examples, documents and answers of sensible lengths, in words."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.shorter import one_grade, only


@dataclass(frozen=True)
class Length:
    """Words are what white space parts. null sets no bound.

    Too long and too short documents and answers go alone; an example goes with its query, or where one grade of
    candidates, or no answer, is left.
    """

    min_query: int = 1
    max_query: int | None = None
    min_document: int = 1
    max_document: int | None = None
    """Longer ones are dropped, not cut: prompts are fitted to their budget anyway."""
    max_answer: int | None = None

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with what is left of them."""
        for example in examples:
            if not _within(example.query, self.min_query, self.max_query):
                context.counts["queries"] += 1
                continue
            fitting = [c.docid for c in example.candidates if _within(c.text, self.min_document, self.max_document)]
            answers = tuple(output for output in example.teachers if _within(output.text, 0, self.max_answer))
            context.counts["documents"] += len(example.candidates) - len(fitting)
            context.counts["answers"] += len(example.teachers) - len(answers)
            is_whole = len(fitting) == len(example.candidates)
            if not is_whole and len(example.candidates) > 1 and one_grade(example, fitting, context):
                continue
            short = only(replace(example, teachers=answers), fitting)
            if example.teachers and not short.teachers:
                context.counts["without_answer"] += 1
                continue
            yield short


def _within(text: str, low: int, high: int | None) -> bool:
    return low <= len(text.split()) and (high is None or len(text.split()) <= high)
