"""The one place where a prompt becomes tokens.

Text from outside is hostile: it is neutralised before it meets the template, so that no document can open a message, end
one, imitate an identifier or write an answer. To fit a budget only documents shrink; the query, the instructions and the
answer format never do.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from rl_rerank.types import Prompt, Rendered

TAG = re.compile(r"<(\s*/?\s*(?:think|answer)\b)", re.IGNORECASE)
IDENTIFIER = re.compile(r"\[(\s*(?:\d+|[A-Za-z])\s*)\]")
CHARACTERS_PER_TOKEN = 16
"""Texts longer than so many characters a token of the budget are cut before they are tokenised."""


class Renderer:
    """Renders prompts for one tokenizer within a token budget.

    Args:
        tokenizer: a transformers fast tokenizer. Without a chat template, messages are joined by blank lines.
        max_prompt_tokens: budget of a whole prompt.
        max_passage_tokens: cap of one document's title and text together; None: only the budget counts.
        template_kwargs: passed to the chat template, such as enable_thinking.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_prompt_tokens: int,
        max_passage_tokens: int | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.max_passage_tokens = max_passage_tokens
        self.template_kwargs = dict(template_kwargs or {})
        self._controls = _controls(tokenizer)
        self.end_id = self._end_id()

    def __call__(self, prompt: Prompt) -> Rendered:
        """The prompt's tokens, up to where the answer begins.

        Raises:
            ValueError: if it does not fit the budget even with empty documents.
        """
        prompt = self._neutralised(prompt)
        ends = {s.text: self._token_ends(s.text) for m in prompt.messages for s in m.segments if s.docid is not None}
        cap = min(self.max_passage_tokens or self.max_prompt_tokens, self.max_prompt_tokens)
        rendered = self._render(prompt, ends, cap)
        if len(rendered.token_ids) <= self.max_prompt_tokens:
            return rendered
        empty = self._render(prompt, ends, 0)
        if len(empty.token_ids) > self.max_prompt_tokens:
            raise ValueError(
                f"qid {prompt.qid!r}: the {prompt.paradigm} prompt takes {len(empty.token_ids)} tokens before any document "
                f"is shown, more than max_prompt_tokens={self.max_prompt_tokens}; raise the budget or shorten the query"
            )
        # The largest cap that fits: low fits, high does not.
        low, high, fitted = 0, cap, empty
        while high - low > 1:
            middle = (low + high) // 2
            trial = self._render(prompt, ends, middle)
            if len(trial.token_ids) <= self.max_prompt_tokens:
                low, fitted = middle, trial
            else:
                high = middle
        return fitted

    def neutralise(self, text: str) -> str:
        """Text from outside with nothing left in it that could pass for structure."""
        text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
        text = " ".join(text.split())
        text = IDENTIFIER.sub(r"(\1)", text)
        text = TAG.sub(r"(\1", text)
        # Breaking one token string can complete another around it, so this runs until nothing is left to break.
        while self._controls is not None and self._controls.search(text):
            text = self._controls.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        return text

    def continuation_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer, or of its beginning, right after the prompt."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            raise ValueError(f"the continuation {text!r} has no tokens")
        return tuple(ids)

    def _neutralised(self, prompt: Prompt) -> Prompt:
        messages = tuple(
            replace(m, segments=tuple(s if s.is_ours else replace(s, text=self.neutralise(s.text)) for s in m.segments))
            for m in prompt.messages
        )
        return replace(prompt, messages=messages)

    def _token_ends(self, text: str) -> list[int]:
        """Where each token of `text` ends, in characters; at most max_prompt_tokens tokens."""
        text = text[: self.max_prompt_tokens * CHARACTERS_PER_TOKEN]
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [end for _, end in encoded["offset_mapping"][: self.max_prompt_tokens]]

    def _render(self, prompt: Prompt, ends: Mapping[str, list[int]], cap: int) -> Rendered:
        """The prompt with every document cut to `cap` tokens."""
        left: dict[str, int] = dict.fromkeys(prompt.docids, cap)
        shrunk: dict[str, None] = {}
        messages, pieces = [], []
        for message in prompt.messages:
            texts = []
            for segment in message.segments:
                text = segment.text
                if segment.docid is not None:
                    text, used = _cut(text, ends[segment.text], left[segment.docid])
                    left[segment.docid] -= used
                    if len(text) < len(segment.text):
                        shrunk[segment.docid] = None
                    if text:
                        pieces.append((segment.docid, text))
                texts.append(text)
            messages.append({"role": message.role, "content": "".join(texts)})
        text = self._template(messages)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = _spans(text, pieces, encoded["offset_mapping"])
        return Rendered(text, tuple(encoded["input_ids"]), spans, tuple(shrunk))

    def _template(self, messages: list[dict[str, str]], *, ask: bool = True) -> str:
        if getattr(self.tokenizer, "chat_template", None) is None:
            return "\n\n".join(m["content"] for m in messages) + ("\n\nAnswer: " if ask else "")
        if messages[0]["role"] == "system" and not self._takes_system:
            first = messages[0]["content"] + "\n\n" + messages[1]["content"]
            messages = [{"role": messages[1]["role"], "content": first}, *messages[2:]]
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=ask, **self.template_kwargs
        )

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the template shows a system message; some refuse or drop it, and it is then put before the question."""
        messages = [{"role": "system", "content": "sysmark"}, {"role": "user", "content": "usermark"}]
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, **self.template_kwargs)
        except TemplateError:
            return False
        return "sysmark" in text

    def _end_id(self) -> int:
        """The token that ends an assistant's turn: the first control token behind an answer, or the end of sequence."""
        if getattr(self.tokenizer, "chat_template", None) is not None:
            messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "answermark"}]
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, **self.template_kwargs)
            behind = text[text.rindex("answermark") + len("answermark") :]
            controls = set(self.tokenizer.added_tokens_encoder.values())
            for token in self.tokenizer.encode(behind, add_special_tokens=False):
                if token in controls:
                    return token
        if self.tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has neither a chat template with an end token nor an eos token")
        return self.tokenizer.eos_token_id


def _controls(tokenizer: Any) -> re.Pattern[str] | None:
    """Matches every special or added token's string; runs of spaces and single characters are text."""
    strings = {*tokenizer.added_tokens_encoder, *tokenizer.all_special_tokens}
    strings = {s for s in strings if len(s) > 1 and not any(c.isspace() for c in s)}
    if not strings:
        return None
    return re.compile("|".join(re.escape(s) for s in sorted(strings, key=len, reverse=True)))


def _cut(text: str, ends: list[int], tokens: int) -> tuple[str, int]:
    """The first `tokens` tokens of `text`, and how many there are."""
    if tokens <= 0 or not ends:
        return "", 0
    used = min(tokens, len(ends))
    return text[: ends[used - 1]].rstrip(), used


def _spans(text: str, pieces: list[tuple[str, str]], offsets: list[tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """docid -> [first, last + 1) token of its pieces, which stand in `text` in this order."""
    starts = [start for start, _ in offsets]
    found: dict[str, tuple[int, int]] = {}
    cursor = 0
    for docid, piece in pieces:
        begin = text.find(piece, cursor)
        assert begin >= 0, "the chat template changed a document's text"
        cursor = begin + len(piece)
        first = max(bisect_right(starts, begin) - 1, 0)
        last = bisect_left(starts, cursor)
        found[docid] = (found[docid][0] if docid in found else first, last)
    return found
