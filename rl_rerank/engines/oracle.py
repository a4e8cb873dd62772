"""An engine with noisy access to the judgments, to measure cost and loss of a strategy without a model."""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from rl_rerank.engines.base import NO_USAGE, Capability, OnCompletion, report
from rl_rerank.prompts.constraints import Beginning
from rl_rerank.types import Completion, Prompt, RankingExample, Sampling

MIDDLE = 0.5
"""Grade above which the only document of a prompt is relevant."""


class Oracle:
    """Answers every prompt like a model that sees each document's grade plus a Gaussian error."""

    # Its answers are a paradigm's targets, which have the form that a constraint would enforce.
    capabilities = frozenset({Capability.score, Capability.constraint})
    usage = NO_USAGE

    def __init__(
        self,
        examples: Sequence[RankingExample],
        target: Callable[[RankingExample, Prompt], str],
        *,
        noise: float = 0.0,
        fresh: bool = False,
        seed: int = 0,
    ) -> None:
        """
        Args:
            target: a paradigm's `target`; it receives examples with noisy grades, which may be fractional.
            noise: standard deviation of the errors, in grades.
            fresh: redraw the errors for every prompt and sample, which makes answers inconsistent; greedy samples of a
                prompt are equal. Otherwise each document of a query has one error, in every paradigm.
        """
        self._target = target
        self._noise = noise
        self._fresh = fresh
        self._seed = seed
        self._examples = {e.qid: e if fresh else self._with_errors(e, e.qid) for e in examples}
        self.batch_sizes: list[int] = []
        """Prompts of each call so far."""

    def render(self, prompt: Prompt) -> Any:
        return asdict(prompt)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        self.batch_sizes.append(len(prompts))
        samples = range(sampling.first, sampling.first + sampling.num_generations)
        draws = [f":{sampling.seed}:{n}" if sampling.temperature else "" for n in samples]
        found = [[Completion(self._answer(p, draw)) for draw in draws] for p in prompts]
        report(on_completion, found)
        return found

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        """Score continuation n by document n; for a single document, the first means relevant.

        The values are log-probabilities up to a constant of the prompt.
        """
        self.batch_sizes.append(len(prompts))
        found = [Completion("", finish_reason="score", continuations=self._values(p, continuations)) for p in prompts]
        report(on_completion, [[answer] for answer in found])
        return found

    def close(self) -> None:
        """Nothing to free."""

    def _answer(self, prompt: Prompt, draw: str) -> str:
        answer = self._target(self._seen(prompt, draw), prompt)
        # A target is whole; where answers end behind some identifiers, so do these.
        return prompt.constraint.cut(answer) if isinstance(prompt.constraint, Beginning) else answer

    def _values(self, prompt: Prompt, continuations: Sequence[str]) -> dict[str, float]:
        grades = self._seen(prompt).qrels
        known: list[float] = [grades[docid] for docid in prompt.docids]
        if len(known) == 1:
            known = [known[0], 2 * MIDDLE - known[0]]
        surplus = [min(known) - 1000.0] * (len(continuations) - len(known))
        return dict(zip(continuations, known + surplus, strict=True))

    def _seen(self, prompt: Prompt, sample: str = "") -> RankingExample:
        """Add errors to the grades of the prompt's example."""
        if not self._fresh:
            return self._examples[prompt.qid]
        example = self._examples[prompt.qid]
        shown = tuple(example.candidate(docid) for docid in prompt.docids)
        return self._with_errors(replace(example, candidates=shown), f"{prompt.qid}:{prompt.docids}{sample}")

    def _with_errors(self, example: RankingExample, key: str) -> RankingExample:
        grades: dict[str, Any] = {**example.qrels}
        for docid in example.docids:
            draw = random.Random(f"{self._seed}:{key}:{docid}")
            grades[docid] = grades.get(docid, 0) + (draw.gauss(0, self._noise) if self._noise else 0)
        return replace(example, qrels=grades)
