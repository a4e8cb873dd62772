"""Keeps what a teacher said where it agrees with the judgments."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.metrics import ndcg
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Completion, RankingExample, TeacherOutput
from rl_rerank_synth.shorter import one_grade


@dataclass(frozen=True)
class Consistency:
    """Drops examples whose gold order has less than `min_ndcg` nDCG@k under the judgments.

    The self-consistency filter of ReasonRank, https://arxiv.org/abs/2508.07050, whose threshold is 0.4: the order comes
    from a teacher without sight of the answer, the judgments from the data or from another teacher. Where all
    candidates have one grade nDCG says nothing, and the example is dropped as `one_grade`.
    """

    min_ndcg: float = 0.4
    k: int = 10
    of: str = "order"
    """`order`: the gold order. `answers`: each answer over the documents of its prompt; examples that are left without
    one are dropped. An answer about documents of one grade has to give the scores that the labels call for."""

    def __post_init__(self) -> None:
        if self.of not in ("order", "answers"):
            raise ValueError(f"consistency: of must be order or answers; got {self.of!r}")
        if not 0 <= self.min_ndcg <= 1 or self.k < 1:
            raise ValueError(
                f"consistency: min_ndcg must be from 0 to 1 and k at least 1; got {self.min_ndcg} and {self.k}"
            )

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples that are consistent, with their nDCG in the provenance."""
        for example in examples:
            kept = self._by_answers(example, context) if self.of == "answers" else self._by_order(example, context)
            if kept is not None:
                yield kept

    def _by_order(self, example: RankingExample, context: StepContext) -> RankingExample | None:
        if example.order is None:
            raise LookupError(f"qid {example.qid!r} has no gold order; a step such as rank gives one")
        if one_grade(example, example.order, context):
            return None
        value = ndcg(example.order, {docid: example.gain(docid) for docid in example.order}, k=self.k)
        if value < self.min_ndcg:
            context.counts["inconsistent"] += 1
            return None
        return replace(example, provenance={**example.provenance, context.name: f"nDCG@{self.k} {value:.4f}"})

    def _by_answers(self, example: RankingExample, context: StepContext) -> RankingExample | None:
        kept = tuple(output for output in example.teachers if self._agrees(example, output, context))
        context.counts["inconsistent"] += len(example.teachers) - len(kept)
        return replace(example, teachers=kept) if kept else None

    def _agrees(self, example: RankingExample, output: TeacherOutput, context: StepContext) -> bool:
        paradigm = context.paradigm(output.paradigm)
        prompt = paradigm.prompt(example, output.docids)
        scores = paradigm.parse(prompt, Completion(output.text), strict=False).scores
        grades = {docid: example.gain(docid) for docid in output.docids}
        if len(set(grades.values())) > 1:
            return bool(scores) and ndcg(scores, grades, k=self.k) >= self.min_ndcg
        called_for = Completion(paradigm.target(example, prompt))
        return scores == paradigm.parse(prompt, called_for, strict=True).scores
