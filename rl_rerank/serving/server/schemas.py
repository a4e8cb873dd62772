"""The bodies of requests and answers, by the protocols that clients of rerankers speak.

Cohere  https://docs.cohere.com/reference/rerank: `model, query, documents, top_n` -> `results, meta`
Jina    https://api.jina.ai/redoc: the same with `return_documents` -> `results, usage`
vLLM    https://docs.vllm.ai, the re-rank and the score API: the same with `instruction`; `text_1, text_2` -> `data`
TEI     https://huggingface.github.io/text-embeddings-inference: `query, texts, raw_scores, return_text` -> a list

Values are strict: a number is no text and a text no number. A field that no protocol has is refused, because a
misspelt one would be lost in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, FailFast, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from rl_rerank.config import unknown_key

PICTURES = ("image", "images", "image_url", "url", "content", "multi_modal")
"""Keys under which clients send documents that are no text."""


class Document(NamedTuple):
    """One document of a request."""

    text: str
    title: str = ""


def refusal(sentence: str) -> PydanticCustomError:
    """An error whose message is this sentence; braces in it stand for themselves."""
    return PydanticCustomError("refused", "{sentence}", {"sentence": sentence})


def _text(value: Any, what: str = "a text") -> str:
    if not isinstance(value, str):
        raise refusal(f"must be {what}; got {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refusal("has half of a surrogate pair, which is no character") from None
    return value


def _document(value: Any) -> Document:
    if not isinstance(value, Mapping):
        return Document(_text(value, "a text or an object with 'text'"))
    if picture := next((key for key in PICTURES if key in value), None):
        raise refusal(f"has {picture!r}, and this server ranks texts only: give the document as 'text'")
    if "text" not in value:
        raise refusal("must have its 'text'")
    return Document(_text(value["text"]), _text(value.get("title") or ""))


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return [_text(value, "a text or a list of texts")]


def kind(value: object) -> str:
    """What JSON calls a value of this type, for an error that does not repeat the value."""
    names = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), "bytes that are no JSON")


DocumentField = Annotated[
    Document,
    PlainValidator(_document),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"text": {"type": "string"}, "title": {"type": "string"}},
                    "required": ["text"],
                },
            ]
        }
    ),
]
TextField = Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string"})]
TextsField = Annotated[
    list[str],
    PlainValidator(_texts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Asked(BaseModel):
    """The fields of every request."""

    model_config = ConfigDict(strict=True, extra="forbid")

    without_effect: ClassVar[tuple[str, ...]] = ()
    """Fields that other servers know, and that change nothing here: documents are cut as in training."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        # Before pydantic, which would list every one of a million unknown fields.
        if not isinstance(values, Mapping):
            raise refusal(f"the body must be a JSON object; got {kind(values)}")
        known = set(cls.model_fields) | set(cls.without_effect)
        if other := next((key for key in values if key not in known), None):
            raise refusal(unknown_field(other, known))
        return {key: value for key, value in values.items() if key not in cls.without_effect or key in cls.model_fields}


def unknown_field(name: str, known: set[str]) -> str:
    """Say that there is no such field, and which was meant."""
    return unknown_key(name[:80], name[:80], known).replace("setting", "field", 1)


class RerankRequest(Asked):
    """Cohere, Jina and vLLM: the documents of one query."""

    without_effect = (
        *("max_tokens_per_doc", "max_tokens_per_query", "max_chunks_per_doc", "truncate_prompt_tokens", "truncation"),
        *("priority", "user"),
    )

    model: str | None = None
    query: TextField
    documents: Annotated[list[DocumentField], FailFast()]
    """In first-stage order, which a listwise model sees."""
    top_n: int | None = Field(default=None, ge=0)
    """The number of best results to return; null or 0: all."""
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """The least `relevance_score` of a result; null: all are returned."""
    return_documents: bool = False
    rank_fields: list[str] | None = None
    """Cohere v1: the fields of documents that are read, of `title` and `text`."""
    instruction: str | None = None
    """The definition of relevance, where the query does not give it."""
    use_activation: bool | None = None
    """true: the probability, where the model's score is calibrated or log-odds; otherwise its own score."""
    return_reasoning: bool = False
    """Return what the model wrote before its answers, where it reasons."""

    @model_validator(mode="after")
    def _fields(self) -> RerankRequest:
        if other := [name for name in self.rank_fields or () if name not in ("title", "text")]:
            raise refusal(f"rank_fields names {other[0][:80]!r}; only 'title' and 'text' are read")
        return self


class TEIRequest(Asked):
    """TEI: the texts of one query."""

    without_effect = ("truncate",)

    query: TextField
    texts: Annotated[list[TextField], FailFast()]
    raw_scores: bool = False
    """false: the probability, where the model's score is calibrated or log-odds; true: its own score."""
    return_text: bool = False
    truncation_direction: Literal["Right", "right"] = "Right"


class ScoreRequest(Asked):
    """vLLM: one text against one or many, or two lists of the same length pair by pair."""

    without_effect = ("max_tokens_per_doc", "max_tokens_per_query", "truncate_prompt_tokens", "priority", "user")

    model: str | None = None
    text_1: TextsField
    """The query, or queries."""
    text_2: TextsField
    """The document, or documents."""
    instruction: str | None = None
    use_activation: bool | None = None


class DocumentBody(BaseModel):
    text: str
    title: str | None = None


class Result(BaseModel):
    index: int
    relevance_score: float
    document: DocumentBody | None = None


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ApiVersion(BaseModel):
    version: str


class Meta(BaseModel):
    api_version: ApiVersion
    score_scale: str
    """log_odds, points, relative (to the other documents of the request) or order (the model gives no scores)."""
    warnings: list[str] | None = None


class Reasoning(BaseModel):
    documents: list[int]
    """The documents behind identifiers 1, 2, ... of the prompt."""
    text: str


class RerankResponse(BaseModel):
    id: str
    model: str
    results: list[Result]
    """Best first."""
    meta: Meta
    usage: Usage | None = None
    reasoning: list[Reasoning] | None = None


class TEIResult(BaseModel):
    index: int
    score: float
    text: str | None = None


class Score(BaseModel):
    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreResponse(BaseModel):
    id: str
    object: Literal["list"] = "list"
    created: int
    """Unix time in seconds."""
    model: str
    data: list[Score]
    usage: Usage | None = None


class ErrorBody(BaseModel):
    message: str
    type: str
    code: int


class Refusal(BaseModel):
    """Cohere reads `message`, OpenAI's and vLLM's clients `error.message`, Jina's `detail`."""

    message: str
    detail: str
    error: ErrorBody


class TEIRefusal(BaseModel):
    error: str
    error_type: str
