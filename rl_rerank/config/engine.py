"""What answers prompts."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rl_rerank.config.building import build, one_of


@dataclass(kw_only=True)
class OpenAIArgs:
    """`engine.args` where engine.kind=openai: a server that speaks OpenAI's protocol."""

    model: str
    """The model's id on the server."""
    base_url: str = "https://api.openai.com/v1"
    revision: str | None = None
    """Your name for what is served under this id: change it when that changes, and the journal's answers are not
    taken for the new model's."""
    tokenizer: str | None = None
    """The served model's tokenizer, a folder or a hub id: prompts then go out as token ids, the same as everywhere.
    null sends messages, which the server puts into its template."""
    api_key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; where it is not set, none is sent."""
    concurrency: int = 8
    """Requests at a time."""
    timeout: float = 300.0
    """Seconds for one answer."""
    max_attempts: int = 8
    """How often a request is sent before the stage gives up, where the server is busy, fails or is not reached."""
    retry_wait: float = 1.0
    """Seconds before the second attempt, doubled for each further one."""
    prompt_price: float = 0.0
    """Per million tokens, in whatever currency."""
    completion_price: float = 0.0
    max_cost: float | None = None
    """Stop before a stage's requests can cost more than this."""
    keep_reasoning: bool = False
    """Put what the server returns as reasoning before the answer, inside <think>."""
    max_tokens_name: str = "max_tokens"
    """What the server calls an answer's longest length; some models take max_completion_tokens."""
    body: dict[str, Any] = field(default_factory=dict)
    """Further fields of every request, such as reasoning_effort; null leaves one out that we would send."""

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


@dataclass(kw_only=True)
class CrossEncoderArgs:
    """`engine.args` where engine.kind=cross_encoder."""

    model: str | None = None
    """A folder or a hub id; null: model.path."""
    revision: str | None = None
    batch_size: int = 32
    """Pairs in one forward."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"engine.args.batch_size must be at least 1; got {self.batch_size}")


ENGINE_ARGS: dict[str, type] = {"openai": OpenAIArgs, "cross_encoder": CrossEncoderArgs}


@dataclass(kw_only=True)
class EngineConfig:
    """What answers prompts outside training."""

    kind: str = "hf"
    """hf or vllm, over the model and what is trained from it; openai, a server; or cross_encoder."""
    batch_tokens: int = 16384
    """hf: at most so many padded prompt tokens in one forward."""
    args: dict[str, Any] = field(default_factory=dict)
    """vllm: any argument of vllm.LLM. openai: the fields of OpenAIArgs. cross_encoder: those of CrossEncoderArgs."""

    def __post_init__(self) -> None:
        one_of("engine.kind", self.kind, ("hf", "vllm", "openai", "cross_encoder"))
        if self.kind in ENGINE_ARGS:
            build(ENGINE_ARGS[self.kind], self.args, "engine.args.")

    @property
    def is_local(self) -> bool:
        """Whether it answers with a model folder of ours, such as one that a stage has trained."""
        return self.kind in ("hf", "vllm")

    def openai(self) -> OpenAIArgs:
        """`args`, where kind=openai."""
        return build(OpenAIArgs, self.args, "engine.args.")

    def cross_encoder(self) -> CrossEncoderArgs:
        """`args`, where kind=cross_encoder."""
        return build(CrossEncoderArgs, self.args, "engine.args.")

    def answering(self) -> dict[str, Any]:
        """What answers depend on, beside a model folder: not where a server is, how fast it is asked, or its price."""
        if self.kind != "openai":
            return dataclasses.asdict(self)
        args = dataclasses.asdict(self.openai())
        names = ("model", "revision", "tokenizer", "keep_reasoning", "body")
        return {"kind": self.kind, **{name: args[name] for name in names}}
