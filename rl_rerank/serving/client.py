"""A client of `rl-rerank serve` with the interface of `Reranker`; it needs neither torch nor an HTTP library."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from rl_rerank.serving.reranker import Document

BUSY = 429
LONGEST_WAIT = 60.0
"""Upper bound of the seconds between two attempts."""


class Client:
    """Ranks documents with a server.

    client = Client("http://localhost:8000")
    best = client.rank("how to sort an array", documents, top_n=5)
    """

    def __init__(
        self, base_url: str, *, model: str | None = None, api_key: str | None = None, timeout: float = 120.0
    ) -> None:
        """
        Args:
            base_url: the server's address, before `/v2/rerank`.
            model: the model's id on the server; None: whichever it has.
            api_key: the server's key, if it has one.
            timeout: seconds in which an answer must come, attempts at a busy server included.
        """
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://; got {base_url!r}")
        self.url = f"{base_url.rstrip('/')}/v2/rerank"
        self.model = model
        self.timeout = timeout
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def rank(
        self, query: str, documents: Sequence[Document], top_n: int | None = None, instruction: str = ""
    ) -> list[tuple[int, float]]:
        """Order `documents` for `query`, as `Reranker.rank` does.

        Returns:
            (index into `documents`, score) best first.

        Raises:
            ValueError: if top_n is below 1, or if the server refuses the request, with its sentence.
            OSError: if the server is not there, fails or is busy until the time is over.
        """
        if top_n is not None and top_n < 1:  # 0 is all documents to the server, and no number of best ones
            raise ValueError(f"top_n must be at least 1, or None for all documents; got {top_n}")
        body: dict[str, Any] = {"query": query, "documents": [_body(document) for document in documents]}
        body |= {"top_n": top_n} if top_n is not None else {}
        body |= {"instruction": instruction} if instruction else {}
        body |= {"model": self.model} if self.model is not None else {}
        answer = self._post(json.dumps(body).encode())
        return [(result["index"], result["relevance_score"]) for result in answer["results"]]

    def _post(self, body: bytes) -> dict[str, Any]:
        """Send the request again while the server is busy, when it says that it may have time."""
        deadline = time.monotonic() + self.timeout
        while True:
            request = urllib.request.Request(self.url, body, self._headers)
            try:
                with urllib.request.urlopen(request, timeout=max(deadline - time.monotonic(), 0.001)) as response:
                    return json.load(response)
            except urllib.error.HTTPError as e:
                with e:
                    said = f"{self.url}: {_sentence(e.read())} (status {e.code})"
                    wait = _seconds(e.headers.get("Retry-After"))
                if e.code == BUSY and time.monotonic() + wait < deadline:
                    time.sleep(wait)
                    continue
                raise (ValueError if 400 <= e.code < 500 and e.code != BUSY else OSError)(said) from None
            except urllib.error.URLError as e:
                raise OSError(f"{self.url}: {e.reason}") from None


def _body(document: Document) -> str | dict[str, Any]:
    return {**document} if isinstance(document, Mapping) else document


def _sentence(body: bytes) -> str:
    """The refusal's sentence, or the beginning of whatever a proxy answered."""
    try:
        return json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        return repr(body[:200])


def _seconds(header: str | None) -> float:
    return min(float(header), LONGEST_WAIT) if header is not None and header.isdecimal() else 1.0
