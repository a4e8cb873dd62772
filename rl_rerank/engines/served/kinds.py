"""Kinds of served engines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from rl_rerank.config import EngineConfig, EngineKind, ModelConfig
from rl_rerank.requirements import load

if TYPE_CHECKING:
    from rl_rerank.engines.base import Engine
    from rl_rerank.paradigms.base import Paradigm


@dataclass(kw_only=True)
class Served(EngineKind):
    """What engines behind a server share: its address, the key, attempts and the cap on cost."""

    has_own_model: ClassVar[bool] = True
    is_journaled: ClassVar[bool] = True

    model: str
    """The model's id on the server."""
    base_url: str
    revision: str | None = None
    """Your version label of the served model: change it when the server's weights change, so that journaled answers are
    not reused."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; if unset, no key is sent."""
    concurrency: int = 8
    """Maximum number of concurrent requests."""
    timeout: float = 300.0
    """Time limit of one answer in seconds."""
    max_attempts: int = 8
    """Maximum attempts per request if the server is busy, fails or is unreachable; then the stage fails."""
    retry_wait: float = 1.0
    """Seconds before the second attempt, doubled before each further one."""
    prompt_price: float = 0.0
    """Price per million tokens, in any currency."""
    completion_price: float = 0.0
    max_cost: float | None = None
    """Cost cap of a stage's requests; it stops before it may exceed it."""
    body: dict[str, Any] = field(default_factory=dict)
    """Further fields of every request, such as reasoning_effort; null removes one of ours."""

    def __post_init__(self) -> None:
        # The values that are refused here may be secrets, so they are not shown.
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_variable):
            raise ValueError(
                "engine.args.api_key_variable is the name of an environment variable, such as OPENAI_API_KEY, never "
                "the key itself: what is configured is written to the run's files"
            )
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(
                "engine.args.base_url must look like https://api.openai.com/v1, without a user or a password"
            )
        for name in ("concurrency", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"engine.args.{name} must be at least 1; got {getattr(self, name)}")
        for name in ("timeout", "retry_wait"):
            if getattr(self, name) <= 0:
                raise ValueError(f"engine.args.{name} must be above 0; got {getattr(self, name)}")
        if self.prompt_price < 0 or self.completion_price < 0:
            raise ValueError("engine.args.prompt_price and engine.args.completion_price must be 0 or more")
        if self.max_cost is not None and not self.prompt_price + self.completion_price:
            raise ValueError(
                f"engine.args.max_cost={self.max_cost} needs engine.args.prompt_price and "
                "engine.args.completion_price, per million tokens"
            )

    @property
    def requires(self) -> Sequence[str]:
        return ("httpx2", "tenacity")

    @property
    def model_label(self) -> str:
        return f"{self.model}{f', revision {self.revision}' if self.revision else ''}, served"

    def final(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a request with the configured fields, and without those that are null."""
        return {name: value for name, value in {**body, **self.body}.items() if value is not None}


@dataclass(kw_only=True)
class OpenAI(Served):
    """engine.kind=openai: a server with OpenAI's protocol."""

    base_url: str = "https://api.openai.com/v1"
    tokenizer: str | None = None
    """The served model's tokenizer, a folder or a hub id, to send prompts as token ids, the same as in other engines.
    null sends messages, which the server renders with its template."""
    keep_reasoning: bool = False
    """Prepend the server's reasoning to the answer, inside <think>."""
    max_tokens_name: str = "max_tokens"
    """Name of the maximum answer length in requests; some models require max_completion_tokens."""

    @property
    def requires(self) -> Sequence[str]:
        return (*super().requires, *(["transformers"] if self.tokenizer else []))

    @property
    def capabilities(self) -> frozenset[str]:
        """Without a tokenizer a server receives messages, perhaps with images, and returns text."""
        return frozenset({"images"}) if self.tokenizer is None else super().capabilities

    @property
    def cuts_prompts(self) -> bool:
        return self.tokenizer is not None

    def check(self, place: str, paradigm: Paradigm, advice: str) -> None:
        """Refuse scored continuations without a tokenizer."""
        if paradigm.continuations and self.tokenizer is None:
            raise ValueError(
                f"{place}: the paradigm {paradigm.name!r} scores {' and '.join(map(repr, paradigm.continuations))} "
                "at the answer position. A server is asked for these only if it is vLLM and engine.args.tokenizer "
                "names its model's tokenizer"
            )

    def answering(self, engine: EngineConfig) -> dict[str, Any]:
        args = asdict(self)
        names = ("model", "revision", "tokenizer", "keep_reasoning", "body")
        return {"kind": engine.kind, **{name: args[name] for name in names}}

    def build(self, model: ModelConfig, folder: Path | None) -> Engine:
        if folder is not None:
            raise ValueError(f"engine.kind=openai asks a server and cannot answer with {str(folder)!r}; use hf or vllm")
        renderer = None
        if self.tokenizer is not None:
            tokenizers = load("rl_rerank.engines.local.tokenizer", "engine.kind=openai")
            renderer = tokenizers.renderer(model, self.tokenizer)
        return load("rl_rerank.engines.served.openai", "engine.kind=openai").OpenAIEngine(self, model, renderer)


@dataclass(kw_only=True)
class RerankAPI(Served):
    """engine.kind=rerank_api: a server that scores documents for a query, each by itself."""

    generates: ClassVar[bool] = False

    model: str
    """The model's id on the server. TEI serves one model and is not sent it: there it is a label."""
    base_url: str
    """The address before `/rerank`, such as https://api.cohere.com/v2 or, with protocol=tei, http://localhost:8080."""
    protocol: Literal["cohere", "tei"] = "cohere"
    """The form of requests: Cohere's, which Jina, vLLM, Infinity and `rl-rerank serve` take too; or TEI's."""
    documents: int = 100
    """Maximum number of documents per request; TEI takes 32 unless it is started with more."""
    api_key_variable: str = "RERANK_API_KEY"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.documents < 1:
            raise ValueError(f"engine.args.documents must be at least 1; got {self.documents}")

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"pair"})

    @property
    def cuts_prompts(self) -> bool:
        return False

    def check(self, place: str, paradigm: Paradigm, advice: str) -> None:
        """Refuse a paradigm that shows the model anything but a query and one document."""
        if paradigm.name != "pointwise":
            raise ValueError(
                f"{place}: a rerank server scores a query with one document, so the paradigm must be pointwise; got "
                f"{paradigm.name!r}{advice}"
            )

    def answering(self, engine: EngineConfig) -> dict[str, Any]:
        names = ("model", "revision", "protocol", "body")
        return {"kind": engine.kind, **{name: getattr(self, name) for name in names}}

    def build(self, model: ModelConfig, folder: Path | None) -> Engine:
        if folder is not None:
            raise ValueError(f"engine.kind=rerank_api asks a server and cannot answer with {str(folder)!r}")
        return load("rl_rerank.engines.served.rerank_api", "engine.kind=rerank_api").RerankAPIEngine(self)
