"""What all readers of loosely written answers share: characters, words for documents, whole numbers, JSON in a text."""

import json
import re
from collections.abc import Iterator
from typing import Any

_FULL_WIDTH = {0xFF01 + i: chr(0x21 + i) for i in range(94)}
_BRACKETS = dict.fromkeys((0x3010, 0x3014, 0x3016), "[") | dict.fromkeys((0x3011, 0x3015, 0x3017), "]")
_QUOTES = dict.fromkeys((0x201C, 0x201D, 0x201E, 0xAB, 0xBB), '"') | dict.fromkeys((0x2018, 0x2019), "'")
_SIGNS = {0x3000: " ", 0xA0: " ", 0x3001: ",", 0x3002: ".", 0x2010: "-", 0x2013: "-", 0x2014: "-", 0x2212: "-"}
_PLAIN = {**_FULL_WIDTH, **_BRACKETS, **_QUOTES, **_SIGNS}
_CONTROL = re.compile(r"<\|[a-z_]{1,30}\|>|</s>|<(?:end_of_turn|eos)>")

DOCUMENT = (
    r"(?i:passages?|documents?|docs?|texts?|items?|candidates?|snippets?|abstracts?|paragraphs?|images?|id"
    r"|dokument|textstelle|pasaje|documento|passagem|документ|пассаж|отрывок|文档|文章|文献|段落|文書|パッセージ|문서|구절)"
)
"""Words that announce a document's identifier."""

NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
"""A number without a sign; `WHOLE` behind it says that nothing of it is missing."""
WHOLE = r"(?![0-9]|[.,][0-9]|[eE][+-]?[0-9]|\s?[%‰]|\s*(?:-|~|\b(?:to|or|and|bis)\b)\s*[0-9])"
"""Behind a number: no further digits, decimals, thousands, exponent, per cent, nor another end of a range."""

JSON_FAILURES = 64
"""Places of a text at most where JSON is sought in vain: to fail at each of 100,000 brackets takes minutes."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that no repeated key is lost."""


def plain(text: str) -> str:
    """The text with full-width characters, dashes, brackets and quotes of other scripts in ASCII; of equal length.

    Control tokens that a model wrote as text become spaces.
    """
    return _CONTROL.sub(lambda found: " " * len(found[0]), text if text.isascii() else text.translate(_PLAIN))


def json_values(text: str) -> Iterator[Any]:
    """The JSON objects and arrays of a text, in order: lists, and `Pairs`. All numbers are floats, NaN is None."""
    cursor = failures = 0
    while failures < JSON_FAILURES and (opening := _OPENING.search(text, cursor)):
        try:
            value, cursor = _DECODER.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            cursor, failures = opening.end(), failures + 1
        else:
            yield value


def _nothing(constant: str) -> None:
    """What NaN and infinities become."""


_OPENING = re.compile(r"[{\[]")
_DECODER = json.JSONDecoder(object_pairs_hook=Pairs, parse_int=float, parse_constant=_nothing)
