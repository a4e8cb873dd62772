"""Servers that score the documents of a query: `/v1/rerank`, and vLLM's `/score`."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from rl_rerank.serving.contract import GoldenPrompt, GoldenScores
from rl_rerank.serving.doors.pairs import PairPrompts

KEY = "RL_RERANK_API_KEY"
"""Environment variable with the key of a server, if it needs one."""
SECONDS = 600.0
"""Time limit of an answer."""
SHOWN = 300
"""Characters of a server's reason that an error repeats."""


class RerankDoor:
    """Scores golden entries by `/v1/rerank`."""

    def __init__(self, address: str, ends: ExitStack | None = None) -> None:
        """
        Args:
            address: of the server, without the path.
            ends: closed with the door.
        """
        self.url = f"{address.rstrip('/')}/v1/rerank"
        self.ends = ends or ExitStack()

    def answer(self, golden: GoldenScores) -> GoldenScores:
        """Score an entry; the prompts stay with the server."""
        # The field is vLLM's: scores before the sigmoid, as the contract has them.
        body = {"query": golden.query, "documents": golden.documents, "use_activation": False}
        results = _list(post(self.url, body), "results", self.url)
        return _golden(golden, _by_index(results, "relevance_score", len(golden.documents), self.url), [])

    def problems(self, golden: Sequence[GoldenScores]) -> Iterator[str]:
        """None that can be seen from here."""
        return iter(())

    def close(self) -> None:
        self.ends.close()


class ScoreDoor:
    """Scores golden entries by vLLM's `/score`, which renders pairs by the chat template that it was started with."""

    def __init__(self, address: str, model: str, prompts: PairPrompts, ends: ExitStack | None = None) -> None:
        """
        Args:
            model: the model's id on the server.
            prompts: renders pairs as the server does.
            ends: closed with the door.
        """
        self.url = f"{address}/score"
        self.model = model
        self.prompts = prompts
        self.ends = ends or ExitStack()

    def answer(self, golden: GoldenScores) -> GoldenScores:
        """Score an entry, with the prompts as the server renders them."""
        body = {
            "model": self.model,
            "text_1": golden.query,
            "text_2": golden.documents,
            "use_activation": False,
        }
        scores = _by_index(_list(post(self.url, body), "data", self.url), "score", len(golden.documents), self.url)
        return _golden(golden, scores, self.prompts(golden.query, golden.documents))

    def problems(self, golden: Sequence[GoldenScores]) -> Iterator[str]:
        """Say whether the chat template writes the date."""
        return self.prompts.problems()

    def close(self) -> None:
        self.ends.close()


def post(url: str, body: Mapping[str, Any]) -> Any:
    """Send JSON and read the answer's.

    Raises:
        ValueError: if the server refuses the request, with its reason, or answers with something else.
        ConnectionError: if it is out of reach.
    """
    headers = {"Content-Type": "application/json"}
    key = os.environ.get(KEY, "").strip()
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as e:
        reason = " ".join(e.read().decode(errors="replace").split())
        raise ValueError(f"{url} answers {e.code}: {_safe(reason, key)[:SHOWN]}") from None
    except ValueError as e:
        raise ValueError(f"{url} answers with no JSON: {_safe(str(e), key)[:SHOWN]}") from None
    except OSError as e:
        raise ConnectionError(f"{url} is out of reach: {e}") from None


def _safe(text: str, key: str) -> str:
    """The text without the key, which some servers repeat."""
    return text.replace(key, "***") if key else text


def _list(reply: Any, name: str, url: str) -> list[Any]:
    found = reply.get(name) if isinstance(reply, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{url} answers without {name}: {str(reply)[:SHOWN]}")
    return found


def _by_index(results: list[Any], field: str, count: int, url: str) -> list[float]:
    """The score of each document, from results in any order."""
    found = {r["index"]: float(r[field]) for r in results if isinstance(r, dict) and "index" in r and field in r}
    if sorted(found) != list(range(count)):
        raise ValueError(f"{url} answers with {len(results)} results for {count} documents: {str(results)[:SHOWN]}")
    return [found[index] for index in range(count)]


def _golden(entry: GoldenScores, scores: list[float], prompts: list[GoldenPrompt]) -> GoldenScores:
    return GoldenScores(query=entry.query, documents=entry.documents, scores=scores, prompts=prompts)
