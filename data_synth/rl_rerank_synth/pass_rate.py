"""Keeps what is neither too easy nor too hard for a model."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.metrics import ndcg
from rl_rerank.synthesis.prompts import prompts
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Prompt, RankingExample, Sampling
from rl_rerank_synth.teaching import teacher


@dataclass(frozen=True)
class PassRate:
    """Asks a training prompt `samples` times; the pass rate is the share of answers with at least `passing` nDCG@k.

    An answer that is not well formed fails. Examples without a prompt of two grades are dropped as `without_prompt`.
    """

    paradigm: str = "listwise"
    engine: str = ""
    """`labels`, `model`, or one of the stage's engines; empty: the stage's teacher."""
    samples: int = 8
    temperature: float = 1.0
    passing: float = 0.8
    k: int = 10
    low: float = 0.1
    """Examples with a lower rate are too hard."""
    high: float = 0.9
    """Examples with a higher rate are too easy."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"pass_rate: 0 <= low <= high <= 1 must hold; got low={self.low}, high={self.high}")
        if self.samples < 1 or self.temperature <= 0:
            raise ValueError("pass_rate: samples must be at least 1 and temperature above 0")

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples in between, with their rate in the provenance."""
        paradigm, batch = context.paradigm(self.paradigm), list(examples)
        asked: list[tuple[RankingExample, Prompt]] = []
        for example in batch:
            found = [p for p in prompts(example, paradigm, context.stage.seed, 0) if _grades(example, p)]
            context.counts["without_prompt"] += not found
            asked += [(example, prompt) for prompt in found]
        if not asked:
            return
        engine, _ = teacher(context, self.engine, batch, paradigm)
        sampling = Sampling(
            paradigm.max_completion_tokens, self.temperature, num_generations=self.samples, seed=context.number
        )
        passed: dict[str, list[bool]] = {}
        answers = engine.generate([prompt for _, prompt in asked], sampling)
        for (example, prompt), completions in zip(asked, answers, strict=True):
            for completion in completions:
                judgment = paradigm.parse(prompt, completion, strict=True)
                good = judgment.is_ok and ndcg(judgment.scores, _grades(example, prompt), k=self.k)
                passed.setdefault(example.qid, []).append(good >= self.passing)
        for example in batch:
            if example.qid not in passed:
                continue
            rate = statistics.fmean(passed[example.qid])
            if self.low <= rate <= self.high:
                yield replace(example, provenance={**example.provenance, context.name: f"{rate:.4f}"})
            else:
                context.counts["too_hard" if rate < self.low else "too_easy"] += 1


def _grades(example: RankingExample, prompt: Prompt) -> dict[str, int]:
    """Of the prompt's documents; empty where they have one grade only."""
    grades = {docid: example.gain(docid) for docid in prompt.docids}
    return grades if len(set(grades.values())) > 1 else {}
