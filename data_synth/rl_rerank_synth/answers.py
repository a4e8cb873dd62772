"""A teacher answers the prompts that a paradigm trains on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.synthesis.prompts import prompts
from rl_rerank.synthesis.rows import called_for
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Prompt, RankingExample, Rollout, Sampling
from rl_rerank_synth.teaching import output, teacher


@dataclass(frozen=True)
class Answers:
    """Keeps every answer with its example, whatever it says: filters judge them."""

    paradigm: str = "listwise"
    engine: str = ""
    """`labels`, `model`, or one of the stage's engines; empty: the stage's teacher."""
    passes: int = 1
    """Prompts per example, each with the documents in another order, or with others of them."""
    samples: int = 1
    """Answers that are drawn for every prompt."""
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.passes < 1 or self.samples < 1 or (self.samples > 1 and self.temperature <= 0):
            raise ValueError(
                f"answers: passes and samples must be at least 1, and several samples need a temperature above 0; got "
                f"passes={self.passes}, samples={self.samples}, temperature={self.temperature}"
            )

    @property
    def answers(self) -> str:
        return self.paradigm

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with their answers; one that gives no prompt is counted as `without_prompt` and dropped."""
        paradigm, asked = context.paradigm(self.paradigm), dict[tuple[str, tuple[str, ...]], Prompt]()
        batch = list(examples)
        # By the gold that targets in this paradigm are made from, which the labels as teacher answer with.
        known = [called_for(example, paradigm) for example in batch]
        for example in known:
            for walk in range(self.passes):
                for prompt in prompts(example, paradigm, context.stage.seed, walk):
                    asked.setdefault((example.qid, prompt.docids), prompt)
        if not asked:
            context.counts["without_prompt"] += len(batch)
            return
        engine, who = teacher(context, self.engine, known, paradigm)
        sampling = Sampling(
            paradigm.max_completion_tokens, self.temperature, num_generations=self.samples, seed=context.number
        )
        found = engine.generate(list(asked.values()), sampling)
        context.counts["prompts"] += len(asked)
        made: dict[str, list] = {example.qid: [] for example in batch}
        for prompt, completions in zip(asked.values(), found, strict=True):
            for completion in completions:
                judgment = paradigm.parse(prompt, completion, strict=True)
                made[prompt.qid].append(output(Rollout(prompt, completion, judgment), self.paradigm, who))
                context.counts["malformed"] += not judgment.is_ok
        for example in batch:
            if not made[example.qid]:
                context.counts["without_prompt"] += 1
                continue
            said = {**example.provenance, context.name: f"{self.paradigm} by {who}"}
            yield replace(example, teachers=(*example.teachers, *made[example.qid]), provenance=said)
