"""A teacher ranks the candidates: its order and scores become gold."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rl_rerank.paradigms.base import traits
from rl_rerank.ranking.driver import Samples, rerank, shuffled
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_synth.teaching import output, ranked, teacher


@dataclass(frozen=True)
class Rank:
    """Asks whatever a paradigm's strategy asks, over the candidates in a seeded random order.

    Answers are read leniently, as when reranking; what cannot be used is counted as `fallbacks`, and so are all that
    are not well formed as `malformed`. The answers are kept with the example, for SFT rows. An example is dropped, and
    counted as `unusable`, where hardly anything of its order is the teacher's.
    """

    paradigm: str = "listwise"
    engine: str = ""
    """`labels`, `model`, or one of the stage's engines; empty: the stage's teacher."""
    samples: int = 1
    """Answers that are drawn for every prompt. Of several the mean score of each document is taken, and the answer
    nearest to it is kept: the consensus of ERank."""
    temperature: float = 0.0
    retries: int = 0
    """How often a prompt is asked again whose answer cannot be used."""
    max_fallbacks: float = 0.5
    """The share of an example's prompts whose answers cannot be used, above which it is dropped."""

    ranks = True

    def __post_init__(self) -> None:
        if self.samples < 1 or (self.samples > 1 and self.temperature <= 0):
            raise ValueError(
                f"rank: samples must be at least 1, and several need a temperature above 0, or they are all the same; "
                f"got samples={self.samples}, temperature={self.temperature}"
            )
        if not 0 <= self.max_fallbacks <= 1:
            raise ValueError(f"rank: max_fallbacks is a share from 0 to 1; got {self.max_fallbacks}")

    @property
    def answers(self) -> str:
        return self.paradigm

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with `order`, `scores` where the paradigm's stand for themselves, and the answers."""
        batch = [example for example in examples if example.candidates]
        if not batch:
            return
        paradigm = context.paradigm(self.paradigm)
        engine, who = teacher(context, self.engine, batch, paradigm)
        rankings, rollouts = rerank(
            [shuffled(example, context.number) for example in batch],
            paradigm,
            engine,
            retries=self.retries,
            retry_seed=context.number,
            samples=Samples(self.samples, self.temperature, context.number),
        )
        asked: defaultdict[str, list[Rollout]] = defaultdict(list)
        for rollout in rollouts:
            asked[rollout.prompt.qid].append(rollout)
        said = f"{self.paradigm} by {who}" + (f", consensus of {self.samples}" if self.samples > 1 else "")
        scored = bool(traits(paradigm).score_scale)
        for example, ranking in zip(batch, rankings, strict=True):
            context.counts["prompts"] += ranking.num_prompts
            context.counts["malformed"] += ranking.num_malformed
            context.counts["fallbacks"] += ranking.num_fallbacks
            if ranking.num_fallbacks > self.max_fallbacks * ranking.num_prompts:
                context.counts["unusable"] += 1
                continue
            written = [r for r in asked[example.qid] if r.completion.continuations is None]
            outputs = [output(rollout, self.paradigm, who) for rollout in written]
            yield ranked(example, ranking, outputs, context.name, said, scored=scored)
