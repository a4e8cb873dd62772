"""A wording: what a paradigm's prompts say, where the query and the documents stand, and how an answer is written.

    paradigm: listwise
    system: Rank the passages by relevance to the query.
    user: |-
      Query: {query}{instruction}
      {documents}
      {think}Answer with all identifiers, most relevant first, like [2] > [1].
    document: "[{id}] {document}"
    think: "Think in <think></think>, then answer in <answer></answer>. "
    instruction: "\\nInstruction: {instruction}"
    reasoning: optional
    answer: {form: chain}

`docs/wordings.md` describes every key. Text in braces that is no lower-case word stays as it is, such as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rl_rerank.prompts.messages import images, ours, require_text
from rl_rerank.prompts.tags import Tags
from rl_rerank.types import Candidate, Message, Prompt, RankingExample, Segment

SLOT = re.compile(r"\{([a-z_]+)\}")
WORDS = ("query", "instruction", "documents", "think", "n")
"""What may stand in braces in a message of any paradigm."""
OF_PARADIGM: Mapping[str, tuple[str, ...]] = {
    "groupwise": ("max_score",),
    "pointwise_graded": ("max_score", "scores"),
    "pointwise": ("positive", "negative"),
    "setwise": ("label", "like"),
    "first_token": ("like",),
}
"""Paradigm -> what only its messages have in braces."""
SLOTS: Mapping[str, tuple[str, ...]] = {
    "system": ("n",),
    "user": WORDS,
    "think": (),
    "instruction": ("instruction",),
    "without_instruction": (),
    "document": ("id", "document"),
    "titled": ("title", "text"),
    "separator": (),
    "opening": WORDS,
    "reply": (),
    "turn": ("id", "document"),
    "received": ("id",),
}
"""Key -> what may stand in braces in its text; in messages also what `OF_PARADIGM` gives."""
FORMS: Mapping[str, tuple[str, ...]] = {
    "listwise": ("chain", "array"),
    "first_token": ("chain",),
    "groupwise": ("object",),
    "setwise": ("label",),
    "pairwise": ("label",),
    "pointwise": ("words",),
    "pointwise_graded": ("score",),
}
"""Paradigm -> the forms of answers that it reads."""
REASONS = ("listwise", "groupwise", "setwise", "pairwise", "pointwise_graded")
"""Paradigms whose answers may come behind reasoning."""
REASONING = ("optional", "always", "never")
FENCES = ("json",)
IDENTIFIERS: Mapping[str, tuple[str, ...]] = {
    "listwise": ("numbers",),
    "first_token": ("letters", "bracketed"),
    "setwise": ("numbers", "letters"),
    "pairwise": ("letters",),
}
"""Paradigm -> what its answers may name documents by."""


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """How an answer is written."""

    form: str
    """`chain` ([2] > [1]), `array` ([2, 1]), `object` ({"[1]": 3}), `label` ([2] or B), `words` or `score`."""
    identifiers: str = ""
    """`numbers`, `letters` or, of first_token, `bracketed` letters; empty: the paradigm's."""
    words: tuple[str, ...] = ()
    """Form `words`: the positive answer and the negative one; empty: the paradigm's."""
    fence: str = ""
    """Language of the code fence around the answer; empty: none."""
    tags: Tags = field(default_factory=Tags)


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What the prompts of one paradigm say."""

    paradigm: str
    user: str
    answer: AnswerForm
    system: str = ""
    document: str = "{document}"
    titled: str = "{title}. {text}"
    """What `{document}` is for a document with a title; otherwise it is the text."""
    separator: str = "\n"
    """Between documents."""
    instruction: str = ""
    """What `{instruction}` is where the query has an instruction."""
    without_instruction: str = ""
    """What it is elsewhere."""
    think: str = ""
    """What `{think}` is with reasoning; without, it is nothing."""
    reasoning: str = "never"
    """Whether a thought comes before the answer: `always`, `never`, or `optional`, as the paradigm is set."""
    opening: str = ""
    """First user message of a conversation in which every document is a turn, and `user` the last message."""
    reply: str = ""
    turn: str = ""
    """A document's message in such a conversation."""
    received: str = ""
    """The model's answer to it."""
    source: str = ""
    licence: str = ""

    @property
    def defaults(self) -> dict[str, Any]:
        """The paradigm's parameters that follow from the wording."""
        found: dict[str, Any] = {}
        if self.reasoning != "optional" and self.paradigm in REASONS:
            found["reasoning"] = self.reasoning == "always"
        if self.answer.identifiers and self.paradigm in ("setwise", "first_token"):
            found["labels"] = self.answer.identifiers
        if self.answer.words:
            found["positive"], found["negative"] = self.answer.words
        return found

    def prompt(
        self,
        example: RankingExample,
        docids: Sequence[str],
        *,
        reasoning: bool = False,
        name: Callable[[int], str] = str,
        shown: str = "text",
        **words: object,
    ) -> Prompt:
        """The question about these documents, identified by 1, 2, ... as `name` writes them.

        Args:
            shown: what of a document stands in the place of `{document}`: its `text`, its `images`, or `both`, images
                first.
            words: what else stands in braces, by its name.
        """
        said: dict[str, Sequence[Segment]] = {word: [ours(str(value))] for word, value in words.items()}
        said["n"] = [ours(str(len(docids)))]
        said["think"] = [ours(self.think if reasoning else "")]
        said["query"] = [Segment(example.query, field="query")]
        with_it = {"instruction": [Segment(example.instruction, field="instruction")]}
        said["instruction"] = [*_filled(self.instruction if example.instruction else self.without_instruction, with_it)]
        turns = list(self._turns(example, docids, name, said, shown))
        if not turns:
            said["documents"] = [*self._documents(example, docids, name, shown)]
        system = [Message("system", _merged(_filled(self.system, said)))] if self.system else []
        messages = (*system, *turns, Message("user", _merged(_filled(self.user, said))))
        return Prompt(example.qid, tuple(docids), messages, self.paradigm, reasoning=reasoning)

    def _documents(
        self, example: RankingExample, docids: Sequence[str], name: Callable[[int], str], shown: str
    ) -> Iterator[Segment]:
        for identifier, docid in enumerate(docids, start=1):
            if identifier > 1:
                yield ours(self.separator)
            yield from self._shown(self.document, example.candidate(docid), name(identifier), shown)

    def _shown(self, template: str, candidate: Candidate, identifier: str, shown: str) -> Iterator[Segment]:
        seen = [] if shown == "text" else images(candidate)
        if shown != "images":
            seen += self._text(candidate, [ours("\n")] if seen else [])
        yield from _filled(template, {"id": [ours(identifier)], "document": seen})

    def _text(self, candidate: Candidate, before: Sequence[Segment]) -> list[Segment]:
        """What a document says, behind `before`; nothing for a document of images without text that shows them."""
        if not before:
            require_text(candidate)
        elif not (candidate.title + candidate.text).strip():
            return []
        text = Segment(candidate.text, candidate.docid, "text")
        title = Segment(candidate.title, candidate.docid, "title")
        said = [*_filled(self.titled, {"title": [title], "text": [text]})] if candidate.title else [text]
        return [*before, *said]

    def _turns(
        self,
        example: RankingExample,
        docids: Sequence[str],
        name: Callable[[int], str],
        said: Mapping[str, Sequence[Segment]],
        shown: str,
    ) -> Iterator[Message]:
        """The messages before the last one of a conversation about one document after the other."""
        if not self.turn:
            return
        yield Message("user", _merged(_filled(self.opening, said)))
        yield Message("assistant", (ours(self.reply),))
        for identifier, docid in enumerate(docids, start=1):
            yield Message("user", _merged(self._shown(self.turn, example.candidate(docid), name(identifier), shown)))
            yield Message("assistant", _merged(_filled(self.received, {"id": [ours(name(identifier))]})))


def _filled(template: str, said: Mapping[str, Sequence[Segment]]) -> Iterator[Segment]:
    """The template's text as ours, with what is said in its braces."""
    cursor = 0
    for slot in SLOT.finditer(template):
        yield ours(template[cursor : slot.start()])
        yield from said[slot[1]]
        cursor = slot.end()
    yield ours(template[cursor:])


def _merged(segments: Iterator[Segment]) -> tuple[Segment, ...]:
    """The segments with neighbours of ours as one, and none of them empty."""
    found: list[Segment] = []
    for segment in segments:
        if found and segment.is_ours and found[-1].is_ours:
            found[-1] = ours(found[-1].text + segment.text)
        elif not segment.is_ours or segment.text:
            found.append(segment)
    return tuple(found)


KEYS = tuple(f.name for f in fields(Wording))
