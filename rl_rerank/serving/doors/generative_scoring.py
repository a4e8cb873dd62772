"""An engine over `/generative_scoring` of a vLLM server, which reads the probability of given tokens behind a prompt.

Prompts are sent as token ids, so that the server renders nothing. It answers for one token at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from rl_rerank.engines.base import NO_USAGE, Capability, OnCompletion
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.serving.doors.http import post
from rl_rerank.types import Completion, Prompt, Sampling

Ids = tuple[int, ...]


class GenerativeScoring:
    """Scores continuations by a vLLM server."""

    capabilities = frozenset({Capability.score})
    usage = NO_USAGE

    def __init__(self, address: str, model: str, renderer: Renderer, ends: ExitStack | None = None) -> None:
        """
        Args:
            model: the model's id on the server.
            ends: closed with the engine.
        """
        self.address = address
        self.model = model
        self.renderer = renderer
        self.ends = ends or ExitStack()

    def render(self, prompt: Prompt) -> Ids:
        """Render the prompt as token ids."""
        return self.renderer(prompt).token_ids

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        raise ValueError("/generative_scoring generates no text, and this paradigm's answers are generated")

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        """Score `continuations` right after each prompt by log-probability over the full vocabulary.

        Raises:
            ValueError: if the server refuses a request.
            ConnectionError: if it is out of reach.
        """
        rows = [self.render(prompt) for prompt in prompts]
        sums = [dict.fromkeys(continuations, 0.0) for _ in prompts]
        found: dict[tuple[Ids, int], list[float]] = {}
        for text in continuations:
            ids = self.renderer.continuation_ids(text)
            for place, token in enumerate(ids):
                step = (ids[:place], token)
                if step not in found:
                    found[step] = self._log_probs([row + ids[:place] for row in rows], token)
                for row, value in zip(sums, found[step], strict=True):
                    row[text] += value
        answers = [Completion("", finish_reason="score", continuations=row) for row in sums]
        if on_completion is not None:
            for number, answer in enumerate(answers):
                on_completion(number, 0, answer)
        return answers

    def close(self) -> None:
        self.ends.close()

    def _log_probs(self, rows: Sequence[Ids], token: int) -> list[float]:
        """The log-probability of a token behind each row."""
        body: dict[str, Any] = {
            "model": self.model,
            "query": [],
            "items": [list(ids) for ids in rows],
            "label_token_ids": [token],
            "apply_softmax": False,  # over the labels alone it would be 1
        }
        reply = post(f"{self.address}/generative_scoring", body)
        scores = {item["index"]: item["score"] for item in reply["data"]}
        return [math.log(scores[place]) if scores[place] > 0 else -math.inf for place in range(len(rows))]
