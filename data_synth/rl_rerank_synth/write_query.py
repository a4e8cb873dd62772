"""A model writes a query for a passage, where there is a corpus and nothing else."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.prompts.messages import passage
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample, Sampling
from rl_rerank_synth.teaching import digest
from rl_rerank_synth.writing import request, written


@dataclass(frozen=True)
class WriteQuery:
    """For `inputs: passages`, the first step: the passage is the relevant document of the query that is written."""

    engine: str = "model"
    """`model`, or one of the stage's engines."""
    style: str = "a question that the passage answers, in words of its own"
    """What is asked for."""
    max_words: int = 40
    """Longer ones are dropped, and counted as `malformed`."""
    temperature: float = 0.7

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with a query of their own."""
        batch = list(examples)
        system = f"Write {self.style}. Write nothing else, on one line."
        prompts = [request(e.qid, system, *passage(e.candidates[0], "Passage:")) for e in batch]
        sampling = Sampling(4 * self.max_words, self.temperature, seed=context.number)
        texts = written(context.engine(self.engine), prompts, sampling)
        for example, prompt, text in zip(batch, prompts, texts, strict=True):
            if not text or "\n" in text or len(text.split()) > self.max_words:
                context.counts["malformed"] += 1
                continue
            said = f"written by {self.engine}, prompt {digest(prompt)}"
            provenance = {**example.provenance, "query": said, "passage": example.qid}
            yield replace(example, qid=f"{example.qid}-q", query=text, provenance=provenance)
