"""Overlapping windows of a long list, each an example."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.paradigms.windows import check_windows, windows
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.shorter import one_grade, only


@dataclass(frozen=True)
class Windows:
    """The windows that a sliding listwise reranker is shown in its first pass."""

    size: int = 20
    stride: int = 10

    def __post_init__(self) -> None:
        check_windows("windows", self.size, self.stride)

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The windows, under qids `QID-wSTART`; those in which all have one grade are counted as `one_grade`."""
        for example in examples:
            for start, end in windows(len(example.candidates), self.size, self.stride):
                docids = example.docids[start:end]
                if one_grade(example, docids, context):
                    continue
                said = {**example.provenance, "query": example.qid, context.name: f"candidates {start + 1} to {end}"}
                yield replace(only(example, docids), qid=f"{example.qid}-w{start}", teachers=(), provenance=said)
