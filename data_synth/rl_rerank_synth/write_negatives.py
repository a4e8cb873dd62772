"""A model writes passages that look relevant and are not."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.prompts.messages import ours, passage, query
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Candidate, Prompt, RankingExample, Sampling, Segment
from rl_rerank_synth.writing import request, written

HARD = (
    "Write a passage that shares words and topic with the query and does not answer it, as long as the one that is "
    "shown, which does. Write the passage only."
)
INSTRUCTION = (
    "Write one sentence that narrows down which passages are relevant to the query, so that the passage that is shown "
    "still is, and others about the query are not. Write the sentence only."
)
VIOLATING = (
    "Write a passage that answers the query and does not do what the instruction asks. Write the passage only, as long "
    "as the one that is shown."
)


@dataclass(frozen=True)
class WriteNegatives:
    """Adds `count` written passages, judged not relevant, to the candidates.

    `hard`: superficially overlapping ones, as in ReasonIR's and ReasonRank's data. `instruction`: the model first
    writes an instruction with which the best passage is relevant, which becomes the example's, and then passages that
    answer the query and violate it, as in Promptriever's, https://arxiv.org/abs/2409.11136. Our words, not theirs.
    """

    kind: str = "hard"
    count: int = 1
    engine: str = "model"
    """`model`, or one of the stage's engines."""
    max_tokens: int = 512
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if self.kind not in ("hard", "instruction") or self.count < 1 or self.temperature <= 0:
            raise ValueError(
                f"write_negatives: kind must be hard or instruction, count at least 1 and temperature above 0; got "
                f"{self.kind!r}, {self.count} and {self.temperature}"
            )

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with more candidates; without a relevant one, or a text, they pass as they are."""
        batch = [(example, _best(example)) for example in examples]
        if self.kind == "instruction":
            batch = self._instructed(batch, context)
        system = HARD if self.kind == "hard" else VIOLATING
        asked = [(example, best) for example, best in batch if best is not None for _ in range(self.count)]
        texts = self._written([_request(example, best, system) for example, best in asked], context)
        new: dict[str, list[Candidate]] = {}
        for (example, _), text in zip(asked, texts, strict=True):
            made = new.setdefault(example.qid, [])
            if text and text not in [candidate.text for candidate in made]:
                docid = f"{example.qid}-{context.name}{len(made) + 1}"
                made.append(Candidate(docid, text, features={"synthetic": context.name}))
            context.counts["passages" if text else "malformed"] += 1
        for example, _ in batch:
            added = new.get(example.qid, [])
            qrels = {**example.qrels, **dict.fromkeys((c.docid for c in added), 0)}
            said = {**example.provenance, context.name: f"{len(added)} written, {self.kind}"}
            yield replace(example, candidates=(*example.candidates, *added), qrels=qrels, provenance=said)

    def _instructed(
        self, batch: list[tuple[RankingExample, Candidate | None]], context: StepContext
    ) -> list[tuple[RankingExample, Candidate | None]]:
        """With the instruction that was written; without one nothing is asked further about the example."""
        asked = [(example, best) for example, best in batch if best is not None]
        texts = self._written([_request(example, best, INSTRUCTION) for example, best in asked], context)
        found = {example.qid: text for (example, _), text in zip(asked, texts, strict=True) if text}
        context.counts["malformed"] += len(asked) - len(found)
        return [
            (
                replace(example, instruction=found.get(example.qid, example.instruction)),
                best if example.qid in found else None,
            )
            for example, best in batch
        ]

    def _written(self, prompts: list[Prompt], context: StepContext) -> list[str]:
        if not prompts:
            return []
        sampling = Sampling(self.max_tokens, self.temperature, seed=context.number)
        return written(context.engine(self.engine), prompts, sampling)


def _best(example: RankingExample) -> Candidate | None:
    relevant = [c for c in example.candidates if example.qrels.get(c.docid, 0) > 0]
    return max(relevant, key=lambda c: example.qrels[c.docid], default=None)


def _request(example: RankingExample, best: Candidate, system: str) -> Prompt:
    shown: list[Segment] = [*query(example), *passage(best, "Passage:"), ours("\n")]
    return request(example.qid, system, *shown)
