"""Orders of documents in a loosely written answer.

    chains  2 > 1 > 3, Passage 2 > Passage 1, [2] → [1]
    JSON    [2, 1, 3], {"ranking": ["[2]", "[1]"]}, [{"id": 2, "rank": 1}, ...]
    lists   2, 1, 3, or [2], [1], [3], or one document a line

An order that names all documents beats one that does not, a chain beats JSON and lists, and of several the last one
wins. A chain written worst first (`<`) is no order, nor are identifiers whose values contradict it, such as
`[1]: 2, [2]: 9`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

from rl_rerank.paradigms.lenient.plain import DOCUMENT, Pairs, json_values, plain

if TYPE_CHECKING:
    from rl_rerank.paradigms.labels import Labels

BETTER = re.compile(r"\\?>+=?|(?:&gt;)+|[-=]>|[→⇒≻≥]|\\(?:succ|gt|rightarrow)\b")
WORSE = re.compile(r"<(?![a-zA-Z/|!])|&lt;|[←≺≤]|\\(?:prec|lt|leftarrow)\b")
WORST_FIRST = re.compile(r"(?i)\b(?:worst|least(?:[ -]relevant)?)[ -](?:to|first)\b|\bascending\b")
BETWEEN = re.compile(r"[\s,;=~≈|&*_`\"'.…()\[\]{}#$\\\x1f-]*")
"""What may stand between the documents of an order beside `BETTER`."""
LINKING = re.compile(rf"\b(?:and|then|und|y|et)\b|[и和]|\b{DOCUMENT}")
SLIPS = 3
"""Characters within a chain that are neither a sign nor space, at most: a slip of the pen does not end it."""
AROUND = " \t*_`\"'()[]{}#$|.,;:\x1f"
NUMBERED = "\x1f"
"""Stands for the number of a list item."""
NUMBERING = re.compile(r"(?m)^[ \t]*(?:[-*•+][ \t]+)?(?:(?i:rank|place|position)[ \t]*)?#?[0-9]{1,3}[.):][ \t]+(?=\S)")
VALUE = re.compile(
    r"[\"'*`]*\s*(?:[:=|]|->|-)\s*[\"'*`]*(?P<rank>(?i:rank|place|position)\s*[:=#]?\s*)?"
    r"(?:(?i:score|relevance|rating)\s*[:=]?\s*)?(?P<value>-?[0-9]{1,9}(?:\.[0-9]{1,9})?)(?!\.?[0-9])"
)
"""A value that is given to the document before it."""
ID_KEYS = frozenset(
    ["id", "docid", "doc_id", "document", "document_id", "passage", "passage_id", "identifier", "label", "candidate"]
)
SCORE_KEYS = frozenset(["score", "relevance", "relevance_score", "rating", "rating_score", "grade"])

Order: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class _Named:
    """A document that is named in a text."""

    start: int
    end: int
    identifier: int
    kind: str
    """`bracketed`, `named` by a word such as `Passage`, or `bare`."""


def loose_order(text: str, labels: Labels, n: int) -> Order:
    """The identifiers that an answer about n documents names, best first, with repeated and unknown ones; or none."""
    text = plain(text)
    if WORST_FIRST.search(text):
        return ()
    orders = [ids for value in json_values(text) for ids in _in_json(value, labels)]
    text = _without_asides(text, labels)
    runs = [*_runs(text, labels)]
    chains = [_ids(run) for joins, run in runs if "better" in joins and "worse" not in joins]
    lists = [_ids(run) for joins, run in runs if joins == {"list"} and _is_list(text, run, n)]
    lists += _nothing_else(text, labels, n)
    for found in (chains, orders, [*lists, _a_line_each(text, labels)]):
        if whole := [ids for ids in found if {*range(1, n + 1)} <= {*ids}]:
            return whole[-1]
    if chains:
        return _together(chains)
    if orders:
        return orders[-1] if all(ids == orders[-1] and _are_known(ids, n) for ids in orders) else ()
    mentioned = [one for joins, run in runs if "worse" not in joins for one in run if one.kind == "bracketed"]
    if mentioned:
        return _ids(mentioned) if _agree(text, mentioned) else ()
    return lists[0] if len({*lists}) == 1 and _are_known(lists[0], n) else ()


def _ids(run: Iterable[_Named]) -> Order:
    return tuple(one.identifier for one in run)


def _are_known(ids: Sequence[int], n: int) -> bool:
    return len({*ids}) == len(ids) and all(1 <= i <= n for i in ids)


def _without_asides(text: str, labels: Labels) -> str:
    """The text with a mark for the number of each list item, and without parentheses behind documents.

    An item that is nothing but a number goes too: in `1. 2` either may be the document.
    """
    text = re.sub(rf"(?m)^[ \t]*[0-9]{{1,3}}[.)][ \t]+{labels.label}[ \t]*$", "", text)
    text = NUMBERING.sub(NUMBERED, text)
    text = re.sub(rf"(?<![\w.\[])(?<![>→≻]\s)[0-9]{{1,3}}[.)][ \t]+(?={_in_brackets(labels)})", NUMBERED, text)
    return re.sub(
        rf"((?:{_in_brackets(labels)}|{_by_word(labels)})[*_`]{{0,3}})[ \t]*\([^()\n]{{0,200}}\)", r"\1", text
    )


def _in_brackets(labels: Labels) -> str:
    return rf"\[ ?{labels.label} ?\]"


def _by_word(labels: Labels) -> str:
    return rf"(?<![A-Za-z]){DOCUMENT}[\s#№.:_-]{{0,3}}{labels.label}\b(?!\.[0-9])"


def _named(text: str, labels: Labels) -> Iterator[_Named]:
    """Everything that may name a document, in order."""
    one = re.compile(
        rf"(?P<bracketed>{_in_brackets(labels)})|(?P<named>{_by_word(labels)})"
        rf"|(?P<bare>(?<![\w.+-]){labels.label}\b(?!\.[0-9]|%))",
        re.ASCII,
    )
    for match in one.finditer(text):
        kind = match.lastgroup
        assert kind is not None
        yield _Named(match.start(), match.end(), labels.read(match[0])[-1], kind)


def _without_strays(text: str, named: Sequence[_Named]) -> Iterator[_Named]:
    """Without bare numbers that only space divides from a document behind them, or from one in brackets before them."""
    neighbours = zip([None, *named], named, [*named[1:], None], strict=False)
    for before, one, behind in neighbours:
        is_stray = behind is not None and not text[one.end : behind.start].strip("[] \t\n")
        if before is not None and before.kind != "bare":
            is_stray = is_stray or not text[before.end : one.start].strip("[] \t\n")
        if (
            one.kind != "bare"
            or not is_stray
            or "[" in text[max(one.start - 1, 0) : one.start]
            or "]" in text[one.end : one.end + 1]
        ):
            yield one


def _runs(text: str, labels: Labels) -> Iterator[tuple[set[str], list[_Named]]]:
    """Documents with nothing but joins between them, and the kinds of joins: `better`, `worse`, `list`."""
    named = [*_without_strays(text, [*_named(text, labels)])]
    run: list[_Named] = []
    joins: set[str] = set()
    for one, following in zip_longest(named, named[1:]):
        run.append(one)
        join = None if following is None else _join(text[one.end : following.start])
        if join is None:
            yield joins, run
            run, joins = [], set()
        else:
            joins.add(join)


def _join(between: str) -> str | None:
    """What joins two documents with this text between them; None: prose."""
    if len(between) > 40:
        return None
    if WORSE.search(between):
        return "worse"
    rest = BETTER.sub("", between)
    kind, slips = ("list", 0) if rest == between else ("better", SLIPS)
    return kind if len(BETWEEN.sub("", LINKING.sub("", rest))) <= slips else None


def _nothing_else(text: str, labels: Labels, n: int) -> Iterator[Order]:
    """The identifiers of a text that holds nothing else, also where only space is between them."""
    alone = text.strip(AROUND + "\n")
    if re.fullmatch(rf"{labels.label}(?:[\s,;]+{labels.label})+", alone) and _are_known(labels.read(alone), n):
        yield labels.read(alone)


def _is_list(text: str, run: Sequence[_Named], n: int) -> bool:
    """Whether documents are a list, not numbers in a sentence: bare ones fill their line, or stand behind a colon."""
    if all(one.kind != "bare" for one in run):
        return True
    if not _are_known(_ids(run), n):
        return False
    before = text[: run[0].start].rpartition("\n")[2].rstrip(AROUND.replace(":", ""))
    behind = text[run[-1].end :].partition("\n")[0].strip(AROUND)
    return not behind and (not before or before.endswith(":"))


def _a_line_each(text: str, labels: Labels) -> Order:
    """The documents that lines begin with, where they are numbered or hold nothing else."""
    one = re.compile(rf"(?:{_in_brackets(labels)}|{_by_word(labels)})", re.ASCII)
    ids: list[int] = []
    for line in text.splitlines():
        found = one.match(line.lstrip(AROUND.replace("[", "") + "-•+"))
        if found and (line.startswith(NUMBERED) or not found.string[found.end() :].strip(AROUND)):
            ids.append(labels.read(found[0])[-1])
    return tuple(ids)


def _together(chains: Sequence[Order]) -> Order:
    """Partial chains one after the other; where they contradict each other, the one that is longest, if only one is."""
    first = {i: place for place, i in enumerate(dict.fromkeys(i for ids in chains for i in ids))}
    if all([*dict.fromkeys(ids)] == sorted({*ids}, key=first.__getitem__) for ids in chains):
        return tuple(i for ids in chains for i in ids)
    lengths = [len({*ids}) for ids in chains]
    return chains[lengths.index(max(lengths))] if lengths.count(max(lengths)) == 1 else ()


def _agree(text: str, mentioned: Sequence[_Named]) -> bool:
    """Whether values that documents are given, such as `[2]: 9`, fall in the order written, or are ranks from 1."""
    found = [match for one in mentioned if (match := VALUE.match(text, one.end))]
    values = [float(match["value"]) for match in found]
    ranks = [float(i) for i in range(1, len(values) + 1)]
    if values == ranks or len(values) < 2:
        return True
    falling = all(a >= b for a, b in pairwise(values))
    return falling and sorted(values) != ranks and not any(match["rank"] for match in found)


def _in_json(value: Any, labels: Labels) -> Iterator[Order]:
    """The orders in a JSON value."""
    if isinstance(value, Pairs):
        for _, inner in value:
            if isinstance(inner, list):
                yield from _in_json(inner, labels)
    elif isinstance(value, list):
        ids = _objects(value, labels) if all(isinstance(one, Pairs) for one in value) else _elements(value, labels)
        if len(ids) > 1:
            yield ids


def _elements(value: Sequence[Any], labels: Labels) -> Order:
    """The identifiers of a JSON array that holds nothing else."""
    ids = [identifier(one, labels) for one in value]
    return tuple(i for i in ids if i is not None) if None not in ids else ()


def _objects(value: Sequence[Pairs], labels: Labels) -> Order:
    """The identifiers of objects in the order of their ranks, or of their scores, or as listed where they have none."""
    found: list[tuple[float, int]] = []
    for place, one in enumerate(value):
        fields = {key.lower(): inner for key, inner in one}
        ids = [identifier(inner, labels) for key, inner in fields.items() if key in ID_KEYS]
        if len(ids) != 1 or ids[0] is None:
            return ()
        rank = fields.get("rank", fields.get("position"))
        scores = [-inner for key, inner in fields.items() if key in SCORE_KEYS and isinstance(inner, float)]
        found.append((rank if isinstance(rank, float) else scores[0] if scores else float(place), ids[0]))
    return tuple(i for _, i in sorted(found, key=lambda one: one[0]))


def identifier(value: Any, labels: Labels) -> int | None:
    """The identifier that a JSON value names: `2`, `"[2]"`, `"Passage 2"`, `["2"]`; None for any other."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer() and labels.kind == "numbers":
        return int(value)
    if not isinstance(value, str):
        return None
    label = rf"(?:{DOCUMENT}[\s#_:-]{{0,2}})?\[?\s?({labels.label})\s?\]?"
    match = re.fullmatch(label, plain(value).strip(), re.ASCII)
    return None if match is None else labels.read(match[1])[0]
