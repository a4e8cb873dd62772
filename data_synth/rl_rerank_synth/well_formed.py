"""Keeps the answers that the strict parser accepts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Completion, RankingExample


@dataclass(frozen=True)
class WellFormed:
    """Answers that are not in the asked form are dropped, and examples that are left without one are too."""

    paradigm: str = ""
    """Answers of this paradigm; empty: of all."""

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with the answers that are left; counts `malformed` ones, and `answers` that are kept."""
        for example in examples:
            kept = []
            for output in example.teachers:
                if self.paradigm and output.paradigm != self.paradigm:
                    kept.append(output)
                    continue
                paradigm = context.paradigm(output.paradigm)
                prompt = paradigm.prompt(example, output.docids)
                is_ok = paradigm.parse(prompt, Completion(output.text), strict=True).is_ok
                context.counts["answers" if is_ok else "malformed"] += 1
                if is_ok:
                    kept.append(output)
            if any(not self.paradigm or output.paradigm == self.paradigm for output in kept):
                yield replace(example, teachers=tuple(kept))
