"""Text from outside, made harmless: nothing is left in it that could pass for a message, an identifier or an answer."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

from rl_rerank.prompts import thoughts

TAG = re.compile(r"<\s*/?\s*(?:think|answer)\b", re.IGNORECASE)
IDENTIFIER = re.compile(r"\[\s*(?:\d+|[A-Za-z])\s*\]")
SHOWN_AS = {"Cc": " ", "Cs": " ", "Cf": ""}
"""Unicode category -> replacement: control characters and lone surrogates; bidi marks, zero-width and soft hyphens."""
LIKELY_CONTROLS = re.compile(
    r"<[|\uff5c]|[|\uff5c]>|</?\w+_of_\w+>|(?i:</?(?:s|bos|eos|pad|unk|mask|cls|sep|image|img)>)|<</?SYS>>|\[/?g?[A-Z][A-Z_]{2,}\]"
)
"""What control tokens of the usual chat formats look like, for a model whose tokenizer is not here."""
CACHED_TEXTS = 4096
"""Sanitized texts kept: a document is a candidate of many queries, and a query is shown with many documents."""


class Sanitizer:
    """Breaks up identifiers, tags and control tokens in texts from outside, and puts each on one line.

    Args:
        tokenizer: a transformers fast tokenizer, whose every special or added token is broken up; None where the model
            is served: then whatever looks like one.
        cached_characters: longer texts are not remembered.
    """

    def __init__(self, tokenizer: Any | None, *, cached_characters: int) -> None:
        self.tokenizer = tokenizer
        self.cached_characters = cached_characters
        self.controls = {} if tokenizer is None else _controls(tokenizer)
        self._pattern = LIKELY_CONTROLS if tokenizer is None else _any_of(self.controls.values())
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """The text with nothing left in it that could pass for structure, on one line."""
        known = self._known.get(text)
        if known is not None:
            return known
        neutral = self._broken(text)
        # A normaliser can turn harmless-looking characters into a control token, which only the tokenizer can tell.
        is_safe = neutral.isascii() and self._keeps_ascii
        while not is_safe and (hidden := self._hidden_controls(neutral)):
            for start, end in reversed(hidden):
                neutral = f"{neutral[:start]} {neutral[end:]}"
            neutral = self._broken(neutral)
        if len(text) <= self.cached_characters:
            if len(self._known) >= CACHED_TEXTS:
                self._known.clear()
            self._known[text] = neutral
        return neutral

    def _broken(self, text: str) -> str:
        """The text on one line, with identifiers, tags and the strings of control tokens broken up."""
        text = _visible(text)
        plain, kept = text if text.isascii() else "".join(map(_plain, text)), list(text)
        for match in IDENTIFIER.finditer(plain):
            kept[match.start()], kept[match.end() - 1] = "(", ")"
        for match in (*TAG.finditer(plain), *thoughts.tags(plain)):
            kept[match.start()] = "("
        text = "".join(kept)
        # Breaking one token string can complete another around it, so this runs until nothing is left to break.
        while self._pattern is not None and self._pattern.search(text):
            text = self._pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        return text

    @cached_property
    def _keeps_ascii(self) -> bool:
        """Whether the tokenizer reads plain characters as they are; one that lower-cases them does not."""
        normalizer = None if self.tokenizer is None else self.tokenizer.backend_tokenizer.normalizer
        plain = "".join(map(chr, range(32, 127)))
        return normalizer is None or normalizer.normalize_str(plain) == plain

    def _hidden_controls(self, text: str) -> list[tuple[int, int]]:
        """[start, end) of the characters of `text` that the tokenizer reads as control tokens."""
        if self.tokenizer is None:
            return []
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [span for token, span in pairs if token in self.controls and span[0] < span[1]]


@lru_cache(maxsize=65536)
def _plain(character: str) -> str:
    """The plain form of a character that some tokenizers normalise, such as a full-width bracket; one character."""
    normal = unicodedata.normalize("NFKC", character)
    return normal if len(normal) == 1 else "0" if normal.isdecimal() else character


def _visible(text: str) -> str:
    """The text on one line, without the characters that cannot be seen."""
    text = " ".join(text.split())
    if text.isprintable():
        return text
    kept = (SHOWN_AS.get(unicodedata.category(c), c) for c in text)
    return " ".join("".join(kept).split())


def _controls(tokenizer: Any) -> dict[int, str]:
    """Id -> string of every special or added token; white space and single characters are text."""
    found = {i: token for token, i in tokenizer.added_tokens_encoder.items()}
    found |= {tokenizer.convert_tokens_to_ids(token): token for token in tokenizer.all_special_tokens}
    return {i: token.strip() for i, token in found.items() if len(token.strip()) > 1}


def _any_of(strings: Iterable[str]) -> re.Pattern[str] | None:
    """Matches any of the strings, the longest first; None where there are none."""
    ordered = sorted(set(strings), key=lambda s: (-len(s), s))
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None
