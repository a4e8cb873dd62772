"""An engine for servers that score documents for a query: Cohere, Jina, vLLM, Infinity, TEI or `rl-rerank serve`.

The documents of one query share a request. The server sees the query and the document of a pointwise prompt, cuts them
itself, and its score is taken as it is, as the log-odds of relevance or in their place. A document's score has to be
its own: it is journaled for the query and the document, whatever else the request has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rl_rerank.engines.base import Capability, OnCompletion
from rl_rerank.engines.local import pairs
from rl_rerank.engines.served.client import Client, Malformed, Request
from rl_rerank.engines.served.kinds import RerankAPI
from rl_rerank.prompts.rendering import sanitized
from rl_rerank.prompts.sanitize import Sanitizer
from rl_rerank.types import Completion, Prompt, Sampling

NOUN = "rerank server"
COMPARED = ("order", "relative")
"""Scales of `rl-rerank serve` whose scores say something of the request's documents among each other only."""
CACHED_CHARACTERS = 1 << 16


class RerankAPIEngine:
    """Scores with a rerank server."""

    capabilities = frozenset({Capability.pair})

    def __init__(self, args: RerankAPI) -> None:
        self.args = args
        self.client = Client(args)
        self.sanitize = Sanitizer(None, cached_characters=CACHED_CHARACTERS)

    @property
    def usage(self) -> Mapping[str, float]:
        """Calls, tokens and retries, and their cost if prices are set."""
        has_prices = self.args.prompt_price > 0
        return {**self.client.usage, **({"cost": round(self.client.cost, 6)} if has_prices else {})}

    def render(self, prompt: Prompt) -> Any:
        """Render the query and the document."""
        return list(pairs.split(sanitized(prompt, self.sanitize), NOUN))

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        raise ValueError(f"a {NOUN} generates no text; use engine=hf, vllm or openai")

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        """Ask for the scores of all documents, those of a query together.

        Raises:
            ValueError: unless there are two continuations and every prompt shows one document; if the server refuses a
                request, or its scores do not stand for themselves.
        """
        pairs.check_answers(continuations, NOUN)
        asked = [self.render(prompt) for prompt in prompts]
        by_query: dict[str, list[int]] = {}
        for place, (query, _) in enumerate(asked):
            by_query.setdefault(query, []).append(place)
        step = self.args.documents
        chunks = [places[i : i + step] for places in by_query.values() for i in range(0, len(places), step)]
        requests = [self._request(asked[chunk[0]][0], [asked[place][1] for place in chunk]) for chunk in chunks]
        found: dict[int, Completion] = {}

        def keep(number: int, scores: list[float]) -> None:
            for place, score in zip(chunks[number], scores, strict=True):
                found[place] = pairs.scored(score, continuations)
                if on_completion is not None:
                    on_completion(place, 0, found[place])

        self.client.send(requests, keep)
        return [found[place] for place in range(len(prompts))]

    def close(self) -> None:
        """Nothing to free."""

    def _request(self, query: str, documents: list[str]) -> Request[list[float]]:
        if self.args.protocol == "tei":
            # Without these it would refuse long texts, and squeeze scores near 0 and 1 together.
            body = {"query": query, "texts": documents, "raw_scores": True, "truncate": True}
        else:
            body = {"model": self.args.model, "query": query, "documents": documents}
        most = sum(len(query.encode()) + len(document.encode()) for document in documents)
        return Request("rerank", self.args.final(body), partial(self._scores, count=len(documents)), (most, 0))

    def _scores(self, reply: Any, count: int) -> list[float]:
        """The score of each document, from a list of results in any order."""
        meta = reply.get("meta") if isinstance(reply, dict) else None
        scale = meta.get("score_scale") if isinstance(meta, dict) else None
        if scale in COMPARED:
            raise ValueError(
                f"{self.args.base_url} serves a model that compares documents (score_scale={scale!r}), whose scores do "
                "not stand for themselves; serve a pointwise one"
            )
        results = reply.get("results") if isinstance(reply, dict) else reply
        if not isinstance(results, list):
            raise Malformed(f"the reply has no results: {str(reply)[:80]}")
        scores: dict[int, float] = {}
        for result in results:
            index, score = _result(result)
            scores[index] = score
        if sorted(scores) != list(range(count)) or len(results) != count:
            raise Malformed(f"the reply has {len(results)} results for {count} documents: {str(results)[:80]}")
        return [scores[index] for index in range(count)]


def _result(result: Any) -> tuple[int, float]:
    """The index and the score of one result: `relevance_score` in Cohere's form, `score` in TEI's."""
    found = result if isinstance(result, dict) else {}
    index, score = found.get("index"), found.get("relevance_score", found.get("score"))
    if not isinstance(index, int) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise Malformed(f"a result has no index and finite score: {str(result)[:80]}")
    return index, float(score)
