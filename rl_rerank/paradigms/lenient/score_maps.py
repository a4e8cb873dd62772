"""The scores of several documents in a loosely written answer.

    JSON     {"[1]": 3, "[2]": 7}, also {"1": "3/10"}, {"[1]": {"score": 3}}, [{"id": 1, "score": 3}, ...],
             {"scores": {...}}, {"scores": [3, 7]}, in a fence or in prose
    pairs    {1: 3, 2: 7}, [1]: 3, Passage 1 - Score: 3/10, | [1] | 3 |
    list     1. 3, 2. 7, one a line, where the numbers cannot be identifiers

JSON is read by a JSON reader; the pairs are for text that is not valid JSON, such as an object without its end. Scores
for all documents beat scores for some, and of several the last ones win.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeAlias

from rl_rerank.paradigms.labels import NUMBERS
from rl_rerank.paradigms.lenient.orders import ID_KEYS, SCORE_KEYS, identifier
from rl_rerank.paradigms.lenient.plain import DOCUMENT, NUMBER, WHOLE, Pairs, json_values, plain
from rl_rerank.paradigms.lenient.scores import NAME, SCALE, UNIT, is_near

Scores: TypeAlias = list[tuple[int, float]]
"""Identifiers with their scores, in the order written."""

VALUE = rf"(?P<value>[-+]?{NUMBER}){WHOLE}(?:{SCALE}|{UNIT})?(?!\w)"
"""A whole number, with the end of its scale."""
READ = rf"(?:{VALUE}|[-+.,~]?[0-9])"
"""A number, or the beginning of one that cannot be read; then the group `value` is empty."""
PAIR = re.compile(
    rf"(?:\[ ?(?P<inside>[0-9]{{1,9}}) ?\]|(?<![A-Za-z]){DOCUMENT}[\s#_]{{0,2}}(?P<named>[0-9]{{1,9}})(?![0-9]))"
    rf"[\"'*_`]{{0,3}}\s*(?:[:=|]|->|→|-\s)\s*[\"'*_`{{]{{0,3}}(?:{NAME}(?:\s+score)?[\"'*_`]{{0,3}}\s*[:=]?\s*)?"
    rf"[\"'*_`]{{0,3}}{READ}",
    re.ASCII | re.IGNORECASE,
)
BARE_PAIR = re.compile(
    rf"(?<=[{{,])\s*[\"'*]?(?P<inside>[0-9]{{1,9}})[\"'*]?\s*:\s*[\"']?{VALUE}(?=[\"']?\s*[,}}])", re.ASCII
)
NUMBERED_LINE = re.compile(rf"(?m)^[ \t]*(?P<inside>[0-9]{{1,3}})[.)][ \t]+[*_`]*{VALUE}[*_`]*[ \t]*$", re.ASCII)


def loose_scores(text: str, n: int, max_score: int) -> Scores:
    """The scores that an answer gives to the documents 1..n, not yet cut to the scale.

    None where one cannot be read as a whole number on the scale: beside the others its document would seem the worst.
    """
    text = plain(text)
    found = [scores for value in json_values(text) if (scores := _in_json(value, n, max_score))]
    whole = [scores for scores in found if {i for i, _ in scores} >= {*range(1, n + 1)}]
    scores = whole[-1] if whole else [pair for scores in found for pair in scores] or _in_prose(text, n, max_score)
    return scores if all(is_near(score, max_score) for _, score in scores) else []


def _in_json(value: Any, n: int, max_score: int) -> Scores:
    """The scores in a JSON value, from the outermost objects that have some."""
    if isinstance(value, Pairs):
        return _of_object(value, n, max_score)
    if isinstance(value, list):
        return [pair for one in value if isinstance(one, Pairs) for pair in _in_json(one, n, max_score)]
    return []


def _of_object(fields: Pairs, n: int, max_score: int) -> Scores:
    """`{"[1]": 3}`, `{"id": 1, "score": 3}`, or an object around such."""
    ids = [i for key, value in fields if key.lower() in ID_KEYS and (i := identifier(value, NUMBERS)) is not None]
    if len(ids) == 1:
        return [(ids[0], score) for score in _under_a_name(fields, max_score)[:1]]
    named = [(identifier(key, NUMBERS), value) for key, value in fields]
    if any(i is not None for i, _ in named):
        scores = [(i, _score(value, max_score)) for i, value in named]
        return [(i, score) for i, score in scores if i is not None and score is not None]
    listed = [value for key, value in fields if key.lower().rstrip("s") in SCORE_KEYS and isinstance(value, list)]
    if len(listed) == 1 and len(listed[0]) == n and all(isinstance(score, float) for score in listed[0]):
        return [*enumerate(listed[0], start=1)]
    return [pair for _, value in fields for pair in _in_json(value, n, max_score)]


def _under_a_name(fields: Pairs, max_score: int) -> list[float]:
    scores = [_score(value, max_score) for key, value in fields if key.lower() in SCORE_KEYS]
    return [score for score in scores if score is not None]


def _score(value: Any, max_score: int) -> float | None:
    """The number that a JSON value is or holds; infinite where it cannot be read, or is on another scale."""
    if isinstance(value, float):
        return value
    if isinstance(value, Pairs):
        return next(iter(_under_a_name(value, max_score)), None)
    if not isinstance(value, str) or not any(map(str.isdecimal, value)):
        return None
    match = re.fullmatch(VALUE, value.strip(), re.ASCII)
    return math.inf if match is None else _number(match, max_score)


def _number(match: re.Match[str], max_score: int) -> float:
    if match["value"] is None or match["scale"] not in (None, str(max_score)):
        return math.inf
    return float(match["value"])


def _in_prose(text: str, n: int, max_score: int) -> Scores:
    """The scores in a text that holds no JSON."""
    bracketed = [(int(m["inside"] or m["named"]), _number(m, max_score)) for m in PAIR.finditer(text)]
    if bracketed:
        return bracketed
    for form in (BARE_PAIR, NUMBERED_LINE):
        found = [(int(match["inside"]), _number(match, max_score)) for match in form.finditer(text)]
        scores = [score for _, score in found]
        # An order of the documents would have every identifier once where the scores stand.
        is_order = form is NUMBERED_LINE and sorted(scores) == [float(i) for i in range(1, n + 1)]
        if [i for i, _ in found] == [*range(1, n + 1)] and not is_order:
            return found
    return []
