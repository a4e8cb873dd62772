"""Bi-encoders: a query and a document are embedded each by itself, and the score is the cosine of the two vectors.

A cosine stands where a cross-encoder has its logit: it orders documents, and its sigmoid is no probability.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl_rerank.engines.base import Capability, OnCompletion
from rl_rerank.engines.local import pairs
from rl_rerank.engines.local.encoder import Role, load_encoder
from rl_rerank.types import Completion, Prompt, Sampling

NOUN = "bi-encoder"
PAIRS_AT_ONCE = 512
"""Pairs per step with a completion callback, which a kill can lose."""


class BiEncoderEngine:
    """Scores with an encoder. Texts are cut to its own length, whatever the token budgets of the experiment's model.

    Args:
        folder: of sentence-transformers.
        place: the setting that names it.
    """

    capabilities = frozenset({Capability.pair})

    def __init__(self, folder: Path, *, place: str, batch_size: int) -> None:
        self.encoder: Any = load_encoder(place, folder, batch_size)
        self._calls = 0

    @property
    def usage(self) -> Mapping[str, float]:
        """Scored prompts, and the tokens that were encoded: each text of a call once."""
        tokens = self.encoder.num_tokens
        return {"calls": self._calls} | ({} if tokens is None else {"prompt_tokens": tokens})

    def render(self, prompt: Prompt) -> Any:
        """Render the query and the document."""
        return [*pairs.split(prompt, NOUN)]

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        raise ValueError(f"a {NOUN} generates no text; use engine=hf, vllm or openai")

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        """Compute log-probabilities of the positive and the negative answer, given in this order by `continuations`.

        Raises:
            ValueError: unless there are two continuations and every prompt shows one document.
        """
        pairs.check_answers(continuations, NOUN)
        texts = [pairs.split(prompt, NOUN) for prompt in prompts]
        vectors: dict[tuple[Role, str], np.ndarray] = {}
        found: list[Completion] = []
        step = max(len(texts), 1) if on_completion is None else PAIRS_AT_ONCE
        for start in range(0, len(texts), step):
            some = texts[start : start + step]
            self._embed("query", [query for query, _ in some], vectors)
            self._embed("document", [document for _, document in some], vectors)
            for query, document in some:
                cosine = float(vectors["query", query] @ vectors["document", document])
                found.append(pairs.scored(cosine, continuations))
                self._calls += 1
                if on_completion is not None:
                    on_completion(len(found) - 1, 0, found[-1])
        return found

    def close(self) -> None:
        """Free the model's memory."""
        del self.encoder

    def _embed(self, role: Role, texts: Sequence[str], vectors: dict[tuple[Role, str], np.ndarray]) -> None:
        """Add the vectors of texts that have none yet."""
        new = list(dict.fromkeys(text for text in texts if (role, text) not in vectors))
        for text, vector in zip(new, self.encoder.encode(new, role), strict=True):
            vectors[role, text] = vector
