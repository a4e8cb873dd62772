"""The records that every part of the framework exchanges. Standard library only."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

END = "\x03"
"""At the end of a continuation: the token that ends the model's turn, whatever a tokenizer calls it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One document that a first-stage retriever returned for a query.

    Example: `Candidate("d1", "Salt melts ice.", title="Salt", rank=1, score=12.5)`
    """

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
    """Further facts: position on a screen, click counts, surface."""


@dataclass(frozen=True, slots=True)
class TeacherOutput:
    """What a teacher said about one example.

    Example: `TeacherOutput("labels", "listwise", ("d1", "d2"), "[2] > [1]")`
    """

    teacher: str
    paradigm: str
    docids: tuple[str, ...]
    """The docids behind identifiers 1..n of the prompt that the teacher saw."""
    text: str
    prompt: str = ""
    """The first 16 digits of the sha256 of its prompt."""


@dataclass(frozen=True, slots=True)
class RankingExample:
    """One query with the candidates a first-stage retriever returned for it.

    Example: `RankingExample("q1", "what melts ice", (Candidate("d1", "Salt melts ice."),), qrels={"d1": 2})`
    """

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
    group: str = ""
    """What evaluations average over beside queries, such as a task or a domain; empty: there is none."""

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
        for docid, score in (self.scores or {}).items():
            if not math.isfinite(score):
                raise ValueError(f"qid {self.qid!r}: the gold score of docid {docid!r} must be finite; got {score!r}")

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
    """A piece of a message: our template text, text that came from outside, or an image.

    Example: `Segment("Salt melts ice.", docid="d1", field="text")`
    """

    text: str
    docid: str | None = None
    """Set where the text is a document's."""
    field: str = "ours"
    """`ours` for template text; `query`, `instruction`, `title` or `text` for text from outside; `image`."""
    image: str = ""
    """Path of an image file, in place of text."""

    @property
    def is_ours(self) -> bool:
        """Whether the text is our template's, which is never shrunk or sanitized."""
        return self.field == "ours"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt.

    Example: `Message("user", (Segment("Query: "), Segment("what melts ice", field="query")))`
    """

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
    """One question to a model. The only place where identifiers are tied to docids.

    Example: `Prompt("q1", ("d2", "d1"), (Message("user", (Segment("Rank."),)),), "listwise")`; identifier 1 is d2
    """

    qid: str
    docids: tuple[str, ...]
    """The docids behind identifiers 1..n, in prompt order."""
    messages: tuple[Message, ...]
    paradigm: str = ""
    """The name of the paradigm that asks; its parser reads the answer."""
    continuations: tuple[str, ...] = ()
    """Texts to score at the answer position instead of generating; empty: the paradigm's own."""
    constraint: Constraint | None = None
    """Constraint on generated answers at inference; training samples freely."""
    reasoning: bool | None = False
    """Whether reasoning comes before the answer; None: as the chat template does by itself, for texts only read."""


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image in a prompt, at the size at which a model sees it.

    Example: `ShownImage("pages/7.png", "d7", sha256="9f86d0...", width=336, height=448, tokens=192)`
    """

    path: str
    docid: str | None
    """The document that it is of; None: it is the query's."""
    sha256: str
    width: int
    """Pixels, after the file's orientation tag is applied."""
    height: int
    tokens: int
    """Without those around it."""

    @property
    def token_id(self) -> int:
        """The id of all its tokens in `Rendered.token_ids`: below 0, and another one for other content or size."""
        digest = hashlib.sha256(f"{self.sha256} {self.width}x{self.height}".encode()).hexdigest()
        return -1 - int(digest[:15], 16)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as tokens, for one tokenizer and one token budget.

    Example: `Rendered("Rank: salt", (51, 17, 902), spans={"d1": (2, 3)})`
    """

    text: str
    """With one placeholder for each image."""
    token_ids: tuple[int, ...]
    """Every token of an image is its `token_id`, so that prompts with equal ids show equal images."""
    spans: Mapping[str, tuple[int, int]]
    """docid -> [start, end) of its text and images in `token_ids`; empty texts are absent."""
    shrunk: tuple[str, ...] = ()
    """docids whose text was cut to fit the budget."""
    images: tuple[ShownImage, ...] = ()  # as they are shown
    compact_ids: tuple[int, ...] = ()
    """With images: the tokens of `text`, for engines that expand placeholders themselves."""
    image_tokens: int | None = None
    """The most tokens that any image was allowed, where that is a limit."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn.

    Example: `Sampling(max_tokens=64, temperature=1.0, num_generations=8, seed=1)`
    """

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
    """What a model answered.

    Example: `Completion("[2] > [1]", (60, 17, 62, 2), finish_reason="stop")`
    """

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
    prompt_tokens: int | None = field(default=None, compare=False)
    """Tokens of the prompt that was answered, where the engine counted them."""


class Status(StrEnum):
    """How far a completion got, best to worst."""

    ok = "ok"
    repaired = "repaired"
    """Readable only leniently; `issues` lists what was repaired."""
    ids = "ids"
    """An answer in the asked form that names wrong, missing or repeated documents."""
    answer = "answer"
    """An answer block whose content is not in the asked form."""
    tags = "tags"
    """No (or no single) answer block."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong with a completion.

    Example: `Issue("repeated_id", "[2]")`
    """

    kind: str
    """A short name that can be counted, such as `repeated_id` or `no_answer`."""
    place: str
    """The offending text, at most 80 characters."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """A parsed completion. A malformed completion is data: it is never raised.

    Example: `Judgment(Status.ok, {"d2": 1.0, "d1": 2.0}, ids=(2, 1))`
    """

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
    """What a reward sees: a prompt, one completion of it and the parser's reading of it.

    Example: `Rollout(Prompt("q1", ("d1",), ()), Completion("yes"), Judgment(Status.ok, {"d1": 1.0}))`
    """

    prompt: Prompt
    completion: Completion
    judgment: Judgment


@dataclass(frozen=True, slots=True)
class Ranking:
    """The final order for one query. A run is a list of these.

    Example: `Ranking("q1", ("d2", "d1"), {"d2": 2.0, "d1": 1.0}, num_prompts=1, rounds=1)`
    """

    qid: str
    docids: tuple[str, ...]
    """Best first."""
    scores: Mapping[str, float]
    """docid -> score; strictly decreasing along `docids`."""
    num_prompts: int = 0
    num_malformed: int = 0
    """Completions that were not well formed, repaired or not."""
    num_fallbacks: int = 0
    """Prompts without a usable answer: their documents kept the shown order, or took scores from their neighbours in
    the first stage."""
    num_ties: int = 0
    """Comparisons of two documents whose outcome depended on which was shown first."""
    num_retries: int = 0
    """Retries of prompts without a usable answer; not counted in `num_prompts`."""
    rounds: int = 0
    """Sequential rounds of model calls (latency)."""
    raw_scores: Mapping[str, float] | None = None
    """docid -> the model's own score, ties included; None: it gave an order only."""
