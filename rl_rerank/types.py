"""The records that every part of the framework exchanges. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

END = "\x03"
"""At the end of a continuation: the token that ends the model's turn, whatever a tokenizer calls it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One document that a first-stage retriever returned for a query."""

    docid: str
    text: str
    title: str = ""
    images: tuple[str, ...] = ()
    """Paths of image files."""
    rank: int | None = None
    """Rank in the first stage, from 1."""
    score: float | None = None
    """Score in the first stage; higher is better."""
    features: Mapping[str, float | str] = field(default_factory=dict)
    """What else is known: position on a screen, click counts, surface."""


@dataclass(frozen=True, slots=True)
class TeacherOutput:
    """What a teacher said about one example."""

    teacher: str
    paradigm: str
    docids: tuple[str, ...]
    """The docids behind identifiers 1..n of the prompt that the teacher saw."""
    text: str
    prompt: str = ""
    """The first 16 digits of the sha256 of what it was asked."""


@dataclass(frozen=True, slots=True)
class RankingExample:
    """One query with the candidates a first-stage retriever returned for it."""

    qid: str
    query: str
    candidates: tuple[Candidate, ...]
    """First-stage order, best first."""
    qrels: Mapping[str, int] = field(default_factory=dict)
    """docid -> graded relevance. A docid that is absent is unjudged."""
    instruction: str = ""
    split: str = ""
    order: tuple[str, ...] | None = None
    """A gold order of docids, best first, where one is known."""
    scores: Mapping[str, float] | None = None
    """docid -> gold score, where known."""
    teachers: tuple[TeacherOutput, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise ValueError(f"qid {self.qid!r}: the query is empty, so there is nothing to rank for")
        seen: set[str] = set()
        for candidate in self.candidates:
            if candidate.docid in seen:
                raise ValueError(
                    f"qid {self.qid!r}: docid {candidate.docid!r} appears more than once among the candidates"
                )
            seen.add(candidate.docid)

    @property
    def docids(self) -> tuple[str, ...]:
        """Candidate docids in first-stage order."""
        return tuple(c.docid for c in self.candidates)

    def gain(self, docid: str) -> int:
        """The document's grade, or 0 where it is unjudged or its grade is negative."""
        return max(self.qrels.get(docid, 0), 0)

    def candidate(self, docid: str) -> Candidate:
        """The candidate with this docid; LookupError if there is none."""
        for candidate in self.candidates:
            if candidate.docid == docid:
                return candidate
        raise LookupError(f"qid {self.qid!r} has no candidate {docid!r}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a message: our template text, or text that came from outside."""

    text: str
    docid: str | None = None
    """Set where the text is a document's."""
    field: str = "ours"
    """`ours` for template text; `query`, `instruction`, `title` or `text` for text from outside."""

    @property
    def is_ours(self) -> bool:
        """Whether the text is our template's, which is never shrunk or sanitized."""
        return self.field == "ours"


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """`system`, `user` or `assistant`."""
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The concatenated raw text, without sanitizing."""
        return "".join(segment.text for segment in self.segments)


class Constraint(Protocol):
    """The form that constrained decoding restricts an answer to. Hashable."""

    @property
    def alphabet(self) -> str:
        """Every character of an answer in this form."""
        ...

    def continues(self, text: str) -> bool:
        """Whether `text` is the beginning of an answer in this form, or a whole one."""
        ...

    def is_whole(self, text: str) -> bool:
        """Whether `text` is an answer in this form."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to a model. The only place where identifiers are tied to docids."""

    qid: str
    docids: tuple[str, ...]
    """The docids behind identifiers 1..n, in prompt order."""
    messages: tuple[Message, ...]
    paradigm: str = ""
    """The name of the paradigm that asks; its parser reads the answer."""
    continuations: tuple[str, ...] = ()
    """What is scored at the answer position instead of generating; empty: as the paradigm always does."""
    constraint: Constraint | None = None
    """What engines hold a generated answer to; training samples freely."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as tokens, for one tokenizer and one token budget."""

    text: str
    token_ids: tuple[int, ...]
    spans: Mapping[str, tuple[int, int]]
    """docid -> [start, end) of its text in `token_ids`; empty texts are absent."""
    shrunk: tuple[str, ...] = ()
    """docids whose text was cut to fit the budget."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    num_generations: int = 1
    seed: int = 0
    first: int = 0
    """Number of the first generation: two at `first=1` are the second and the third of three."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered."""

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: str = "stop"
    """`stop` (the end token came), `length` (cut at max_tokens) or `score` (continuations were scored, no text)."""
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each token of `token_ids`, where asked for."""
    token_ends: tuple[int, ...] | None = None
    """Where the text of each token of `token_ids` ends in `text`, in characters, where known."""
    continuations: Mapping[str, float] | None = None
    """Continuation -> natural log-probability at the answer position, for `score` calls."""


class Status(StrEnum):
    """How far a completion got, best to worst."""

    ok = "ok"
    repaired = "repaired"
    """Readable only leniently; what was mended stands in `issues`."""
    ids = "ids"
    """An answer in the asked form that names wrong, missing or repeated documents."""
    answer = "answer"
    """An answer block whose content is not in the asked form."""
    tags = "tags"
    """No (or no single) answer block."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong with a completion."""

    kind: str
    """A short name that can be counted, such as `repeated_id` or `no_answer`."""
    place: str
    """The offending text, at most 80 characters."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """A parsed completion. A malformed completion is data: it is never raised."""

    status: Status
    scores: Mapping[str, float] = field(default_factory=dict)
    """docid -> score, higher is better. Empty unless status is ok or repaired."""
    ids: tuple[int, ...] = ()
    """Identifiers exactly as emitted."""
    issues: tuple[Issue, ...] = ()

    @property
    def is_ok(self) -> bool:
        """Whether the completion was well formed without repair."""
        return self.status is Status.ok


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a reward sees: a prompt, one completion of it and what the parser made of it."""

    prompt: Prompt
    completion: Completion
    judgment: Judgment


@dataclass(frozen=True, slots=True)
class Ranking:
    """The final order for one query. A run is a list of these."""

    qid: str
    docids: tuple[str, ...]
    """Best first."""
    scores: Mapping[str, float]
    """docid -> score; strictly decreasing along `docids`."""
    num_prompts: int = 0
    num_malformed: int = 0
    """Completions that were not well formed, whether mended or not."""
    num_fallbacks: int = 0
    """Prompts whose answer could not be used: their documents kept the order that the model was shown, or took scores
    from their neighbours in the first stage."""
    num_ties: int = 0
    """Comparisons of two documents that the model decided one way in one order and the other way in the other."""
    num_retries: int = 0
    """Prompts asked again, because their answer could not be used; not among `num_prompts`."""
    rounds: int = 0
    """Sequential rounds of model calls (latency)."""
    raw_scores: Mapping[str, float] | None = None
    """docid -> the score that the model gave, ties and all; None where it gave an order only."""
