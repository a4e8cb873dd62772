"""The one place where a prompt becomes tokens.

Text from outside is hostile: it is sanitized before it meets the template, so that no document can open a message,
end one, imitate an identifier or write an answer. To fit a budget only documents shrink; the query, the instructions
and the answer format never do. Images come before text: they are made smaller only where they do not fit beside empty
texts, all to one common cap, and the texts share what they leave.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from rl_rerank.prompts import clock, thoughts
from rl_rerank.prompts.contents import Contents, behind, content
from rl_rerank.prompts.sanitize import Sanitizer
from rl_rerank.prompts.vision import Vision
from rl_rerank.types import END, Prompt, Rendered, Segment, ShownImage

CHARACTERS_PER_TOKEN = 16
"""Characters per token of the budget above which a text is cut before it is tokenised."""


@dataclass(frozen=True)
class _Images:
    """The images of a prompt in their order, and the cap on their tokens."""

    shown: tuple[ShownImage, ...] = ()
    cap: int | None = None


class Renderer:
    """Renders prompts for one tokenizer within a token budget.

    Args:
        tokenizer: a transformers fast tokenizer. Without a chat template, messages are joined by blank lines, behind
            the begin-of-sequence token where the tokenizer puts one, and "Answer:" asks for the answer.
        max_prompt_tokens: budget of a whole prompt.
        max_passage_tokens: cap of one document's title and text together; None: only the budget counts.
        template_kwargs: passed to the chat template, such as date_string. Its switch for thinking, where it has one
            that is not given here, is set as each prompt's reasoning needs it.
        declared_ends: ends of sequence that the model's files declare.
        vision: how the model sees images; None: it does not.
        blindness: why not, for errors.

    Attributes:
        end_id: the token that is trained to end an answer.
        stop_ids: the tokens at which generation stops, in training and in every engine: `end_id` and every end of
            sequence. A base model with a chat template declares another one than its template writes.
        num_shown, num_cut: documents of all prompts so far, and those of them that were cut to a budget.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_prompt_tokens: int,
        max_passage_tokens: int | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        declared_ends: Iterable[int] = (),
        vision: Vision | None = None,
        blindness: str = "the model has no image processor",
    ) -> None:
        self.tokenizer = tokenizer
        self.vision = vision
        self.blindness = blindness
        self.max_prompt_tokens = max_prompt_tokens
        self.max_passage_tokens = max_passage_tokens
        self.template_kwargs = dict(template_kwargs or {})
        self.contents = Contents(self._shown, None if vision is None else vision.image_token)
        self.sanitize = Sanitizer(tokenizer, cached_characters=CHARACTERS_PER_TOKEN * max_prompt_tokens)
        self.end_id = self._end_id()
        ends = (self.end_id, tokenizer.eos_token_id, *declared_ends)
        self.stop_ids = frozenset(end for end in ends if end is not None)
        self.num_shown = self.num_cut = 0
        self._arguments: dict[bool, Mapping[str, Any]] = {}

    def __call__(self, prompt: Prompt) -> Rendered:
        """The prompt's tokens, up to where the answer begins.

        Raises:
            ValueError: if it does not fit the budget even with empty documents; if the chat template puts its answer
                inside a thought, or leaves no room for its reasoning; or if an image cannot be opened or seen.
        """
        rendered = self._fitted(sanitized(prompt, self.sanitize))
        self.num_shown += len(prompt.docids)
        self.num_cut += len(rendered.shrunk)
        return rendered

    def _fitted(self, prompt: Prompt) -> Rendered:
        cap = min(self.max_passage_tokens or self.max_prompt_tokens, self.max_prompt_tokens)
        theirs = [s.text for m in prompt.messages for s in m.segments if s.docid is not None]
        ends = {text: self._token_ends(text, cap) for text in theirs}
        images = self._images(prompt, ends)
        rendered = self._render(prompt, ends, cap, images)
        if len(rendered.token_ids) <= self.max_prompt_tokens:
            return rendered
        empty = self._render(prompt, ends, 0, images)
        if len(empty.token_ids) > self.max_prompt_tokens:
            raise ValueError(
                f"qid {prompt.qid!r}: the {prompt.paradigm} prompt takes {len(empty.token_ids)} tokens before any "
                f"document is shown, more than max_prompt_tokens={self.max_prompt_tokens}; raise the budget or shorten "
                "the query"
            )
        return self._fit(prompt, ends, cap, empty, images)

    def arguments(self, paradigm: str, reasoning: bool | None) -> Mapping[str, Any]:
        """The chat template's arguments for the prompts of a paradigm with or without reasoning; None: as given.

        Raises:
            ValueError: if its answers would not stand where they are read, naming the template, the paradigm and the
                settings that help; or if the template writes something else at every rendering.
        """
        if reasoning is None or self.has_no_template:
            return self.template_kwargs
        if reasoning not in self._arguments:
            arguments = thoughts.switched(self._try, self.template_kwargs, reasoning)
            if not clock.is_steady(lambda moment: self._try({**arguments, **moment})):
                raise ValueError(
                    f"the chat template of {self.tokenizer.name_or_path or 'the tokenizer'!r} renders one prompt in "
                    "two ways, so a model cannot be asked as it was trained; remove what it draws at random"
                )
            if reason := thoughts.refusal(self._try, arguments, paradigm, reasoning):
                raise ValueError(f"the chat template of {self.tokenizer.name_or_path or 'the tokenizer'!r} {reason}")
            self._arguments[reasoning] = arguments
        return self._arguments[reasoning]

    def dates(self, paradigm: str, reasoning: bool | None) -> dict[str, str]:
        """The formats in which the template asks for the date -> the date that it is given; empty if it does not."""
        if self.has_no_template:
            return {}
        arguments = self.arguments(paradigm, reasoning)
        return clock.formats(lambda moment: self._try({**arguments, **moment}))

    def opens_thought(self, paradigm: str) -> bool:
        """Whether the prompts of a paradigm with reasoning end inside it."""
        return not self.has_no_template and thoughts.is_opened(self._try(self.arguments(paradigm, True)))

    def _try(self, arguments: Mapping[str, Any]) -> str:
        """How the template shows a prompt whose question is `thoughts.QUESTION`."""
        messages = [{"role": "system", "content": "sysmark"}, {"role": "user", "content": thoughts.QUESTION}]
        return self._template(messages, arguments)

    @property
    def has_no_template(self) -> bool:
        """Whether the tokenizer has no chat template."""
        return getattr(self.tokenizer, "chat_template", None) is None

    def _images(self, prompt: Prompt, ends: Mapping[str, list[int]]) -> _Images:
        """The prompt's images at the largest common cap at which they fit beside empty documents."""
        asked = [segment for message in prompt.messages for segment in message.segments if segment.image]
        if not asked:
            return _Images()
        if self.vision is None:
            raise ValueError(f"qid {prompt.qid!r}: the {prompt.paradigm} prompt shows images, and {self.blindness}")
        cap = self.vision.max_image_tokens
        while True:
            try:
                images = _Images(tuple(self.vision.fitted(s.image, s.docid, cap) for s in asked), cap)
            except ValueError as e:
                raise ValueError(f"qid {prompt.qid!r}: {e}") from None
            over = len(self._render(prompt, ends, 0, images).token_ids) - self.max_prompt_tokens
            if over <= 0:
                return images
            tokens = [image.tokens for image in images.shown]
            if (room := sum(tokens) - over) < len(tokens):
                raise ValueError(
                    f"qid {prompt.qid!r}: the {prompt.paradigm} prompt takes {self.max_prompt_tokens - room} tokens "
                    f"beside its {len(tokens)} images, so that max_prompt_tokens={self.max_prompt_tokens} has no room "
                    "for these; raise the budget or show fewer documents in a prompt"
                )
            cap = water_level(tokens, room)

    def _fit(
        self, prompt: Prompt, ends: Mapping[str, list[int]], cap: int, empty: Rendered, images: _Images
    ) -> Rendered:
        """The prompt with the largest common cap of its documents that fits; `cap` does not, and 0 gives `empty`.

        Starts from the cap that would fit if pieces of text had as many tokens together as apart, which they nearly do.
        """
        sizes: dict[str, int] = dict.fromkeys(prompt.docids, 0)
        for segment in (s for m in prompt.messages for s in m.segments):
            if segment.docid is not None:
                sizes[segment.docid] += len(ends[segment.text])
        guess = water_level(list(sizes.values()), self.max_prompt_tokens - len(empty.token_ids))
        low, high, fitted, step = 0, cap, empty, 1
        while high - low > 1:
            middle = guess if low < guess < high else (low + high) // 2
            trial = self._render(prompt, ends, middle, images)
            if len(trial.token_ids) <= self.max_prompt_tokens:
                low, fitted, guess = middle, trial, middle + step
            else:
                high, guess = middle, middle - step
            step *= 2
        return fitted

    def _encode(self, text: str) -> Any:
        return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    def continuation_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer, or of its beginning, right after the prompt; `END` behind it is `end_id`."""
        ids = self.tokenizer.encode(text.removesuffix(END), add_special_tokens=False)
        if not ids:
            raise ValueError(f"the continuation {text!r} has no tokens")
        return (*ids, self.end_id) if text.endswith(END) else tuple(ids)

    def _token_ends(self, text: str, cap: int) -> list[int]:
        """Where each of the first `cap` tokens of `text` ends, in characters."""
        return [end for _, end in self._encode(text[: cap * CHARACTERS_PER_TOKEN])["offset_mapping"][:cap]]

    def _render(self, prompt: Prompt, ends: Mapping[str, list[int]], cap: int, images: _Images) -> Rendered:
        """The prompt with every document cut to `cap` tokens."""
        left: dict[str, int] = dict.fromkeys(prompt.docids, cap)
        shrunk: dict[str, None] = {}
        messages: list[dict[str, Any]] = []
        pieces: list[tuple[str, list[Segment]]] = []
        replacements = iter(() if self.vision is None else map(self.vision.replaced, images.shown))
        for message in prompt.messages:
            kept, said = list[Segment](), list[Segment]()
            for segment in message.segments:
                if segment.docid is not None and not segment.image:
                    text, used = _cut(segment.text, ends[segment.text], left[segment.docid])
                    left[segment.docid] -= used
                    if len(text) < len(segment.text):
                        shrunk[segment.docid] = None
                    segment = replace(segment, text=text)
                kept.append(segment)
                said.append(replace(segment, text=next(replacements)) if segment.image else segment)
            messages.append({"role": message.role, "content": content(kept)})
            pieces.append((message.role, said))
        text = self._template(messages, self.arguments(prompt.paradigm, prompt.reasoning))
        if self.vision is None or not images.shown:
            encoded = self._encode(text)
            spans = _spans(text, pieces, encoded["offset_mapping"])
            return Rendered(text, tuple(encoded["input_ids"]), spans, tuple(shrunk))
        expanded = self.vision.expanded(text, images.shown)
        encoded = self._encode(expanded)
        spans = _spans(expanded, pieces, encoded["offset_mapping"])
        marked, compact = self.vision.marked(encoded["input_ids"], images.shown), self._encode(text)["input_ids"]
        return Rendered(text, marked, spans, tuple(shrunk), images.shown, tuple(compact), images.cap)

    def _template(self, messages: list[dict[str, Any]], arguments: Mapping[str, Any]) -> str:
        if self.has_no_template:
            texts = [self.contents.text(m["content"]) for m in messages]
            return self.begin + "\n\n".join(texts) + "\n\nAnswer:\n"
        if messages[0]["role"] == "system" and not self.takes_system:
            first = behind(self.contents.text(messages[0]["content"]) + "\n\n", messages[1]["content"])
            messages = [{"role": messages[1]["role"], "content": first}, *messages[2:]]
        return self._apply(messages, {"add_generation_prompt": True, **arguments})

    def _shown(self, messages: list[dict[str, Any]]) -> str:
        """What the chat template makes of messages whose content is in a form that it takes."""
        given = {**clock.at(clock.DATE), **self.template_kwargs}
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **given)

    def _apply(self, messages: list[dict[str, Any]], arguments: Mapping[str, Any]) -> str:
        """What the chat template makes of messages; it reads a fixed date from its clock."""
        given = [{**message, "content": self.contents.taken(message["content"])} for message in messages]
        return self.tokenizer.apply_chat_template(given, tokenize=False, **{**clock.at(clock.DATE), **arguments})

    @cached_property
    def begin(self) -> str:
        """The begin-of-sequence token's text, if the tokenizer puts it before plain text."""
        begin = self.tokenizer.bos_token_id
        return self.tokenizer.bos_token if begin is not None and self.tokenizer("")["input_ids"][:1] == [begin] else ""

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template shows a system message; some refuse or drop it, and it then precedes the question."""
        if self.has_no_template:
            return True
        messages = [{"role": "system", "content": "sysmark"}, {"role": "user", "content": "usermark"}]
        try:
            text = self._apply(messages, self.template_kwargs)
        except TemplateError:
            return False
        return "sysmark" in text

    def _end_id(self) -> int:
        """The token that ends an assistant's turn: the first control token behind an answer, or the end of sequence."""
        if not self.has_no_template:
            messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "answermark"}]
            text = self._apply(messages, self.template_kwargs)
            _, shown, behind = text.rpartition("answermark")
            for token in self.tokenizer.encode(behind if shown else "", add_special_tokens=False):
                if token in self.sanitize.controls:
                    return token
        if self.tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has neither a chat template with an end token nor an eos token")
        return self.tokenizer.eos_token_id


def sanitized(prompt: Prompt, sanitize: Sanitizer) -> Prompt:
    """The prompt with every segment from outside sanitized."""
    messages = tuple(
        replace(m, segments=tuple(s if s.is_ours else replace(s, text=sanitize(s.text)) for s in m.segments))
        for m in prompt.messages
    )
    return replace(prompt, messages=messages)


def water_level(sizes: Sequence[int], room: int) -> int:
    """The largest level whose sum of min(size, level) is at most `room`."""
    left = len(sizes)
    for size in sorted(sizes):
        if size * left > room:
            return room // left
        room, left = room - size, left - 1
    return max(sizes, default=0)


def _cut(text: str, ends: list[int], tokens: int) -> tuple[str, int]:
    """The first `tokens` tokens of `text`, and how many there are."""
    if tokens <= 0 or not ends:
        return "", 0
    used = min(tokens, len(ends))
    return text[: ends[used - 1]].rstrip(), used


def _spans(
    text: str, messages: Sequence[tuple[str, Sequence[Segment]]], offsets: Sequence[tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """docid -> [start, end) of the tokens of its texts.

    Every segment is sought behind the one before it: a short text can also stand in the template or in the query. The
    system message is sought anywhere: some templates move it into the last question.
    """
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    found: dict[str, tuple[int, int]] = {}
    cursor = 0
    for role, segment in ((role, segment) for role, segments in messages for segment in segments):
        piece = segment.text if segment.docid is not None else segment.text.strip()  # templates trim messages
        begin = text.find(piece, 0 if role == "system" else cursor)
        if begin < 0:
            raise ValueError(f"the chat template changed the text {piece[:80]!r}, so that its tokens cannot be found")
        if role != "system":
            cursor = begin + len(piece)
        if segment.docid is not None and piece:
            first, last = bisect_right(ends, begin), bisect_left(starts, cursor)
            found[segment.docid] = (found[segment.docid][0] if segment.docid in found else first, last)
    return found
