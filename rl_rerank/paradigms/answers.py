"""The grammar that all generating paradigms share: where in a completion the answer stands.

Without reasoning the whole completion is the answer; in lenient mode, where a model has thought all the same, it is the
text after the last thought, in whatever tags. With reasoning it is the text of the `<answer>` block after the last
`</think>`: exactly one in strict mode; in lenient mode the last one, or what stands behind the thought where a
completion that was not cut has none. The opening `<think>` is not asked for: where the chat template writes it at the
end of the prompt, the completion begins inside the reasoning. A thought that is opened and not closed has no answer,
whatever it quotes. A wording may have other tags.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from rl_rerank.prompts import thoughts
from rl_rerank.prompts.tags import DEFAULT, Tags
from rl_rerank.types import Completion, Issue, Judgment, RankingExample, Status

NOT_FINITE = "not_finite"
"""Issue of an answer whose log-probabilities are NaN or infinite."""
NUMBER = r"(?:0|[1-9][0-9]{0,8})"
"""An identifier's number as we write it: no leading zeros, no digits of other scripts."""


@dataclass(frozen=True)
class Answer:
    """An answer's text, or why there is none."""

    text: str | None
    issues: tuple[Issue, ...] = ()
    start: int = 0
    """Where it begins in the completion's text."""


def issue(kind: str, place: str) -> Issue:
    """An issue with its place cut to 80 characters."""
    return Issue(kind, place[:80])


def clean_answer(completion: Completion, reasoning: bool, tags: Tags = DEFAULT) -> str | None:
    """What `find_answer` finds, stripped, where the completion ends with the answer and nothing stands around it.

    It looks at the end only, and not for faults: the answer may hold tags, which no reader of answers accepts. None
    where it cannot tell.
    """
    if completion.finish_reason == "length" or _not_finite_tokens(completion):
        return None
    if not reasoning:
        return completion.text.strip()
    ended = completion.text.rfind(tags.think_end)
    block = completion.text[ended + len(tags.think_end) :].strip()
    if ended < 0 or not block.startswith(tags.open) or not block.endswith(tags.close):
        return None
    return block[len(tags.open) : -len(tags.close)].strip()


def find_answer(completion: Completion, *, reasoning: bool, strict: bool, tags: Tags = DEFAULT) -> Answer:
    """The answer's text. In strict mode any issue means that the completion is malformed.

    Args:
        tags: what stands around the thought and the answer.
    """
    if unusable := _not_finite_tokens(completion):
        return Answer(None, unusable)
    issues: list[Issue] = []
    if completion.finish_reason == "length":
        issues.append(issue("truncated", completion.text[-80:]))
    whole: str = completion.text
    if not reasoning:
        start, found = (0, []) if strict else _behind_thoughts(whole)
        issues += found
        return _answer(whole, None if (strict and issues) or start is None else (start, len(whole)), issues)
    start, found = _behind_reasoning(whole, tags.think_end, strict=strict)
    issues += found
    if start is None or (tags.think_end not in whole and completion.finish_reason == "length"):
        return Answer(None, tuple(issues))  # Inside the reasoning: a block in it is a draft or a quotation.
    exact, loose = _answer_tags(tags.answer)
    blocks, outside = _blocks(whole, start, exact if strict else loose)
    if not blocks:
        issues.append(issue("no_answer_block", whole[start:]))
        return _answer(whole, None if strict else _unmarked(completion, start, loose), issues)
    if not strict and blocks != _blocks(whole, start, exact)[0]:
        issues.append(issue("inexact_answer_tags", whole[start:]))
    if len(blocks) > 1:
        issues.append(issue("several_answer_blocks", whole[start:]))
    if outside:
        issues.append(issue("text_outside_answer", outside))
    return _answer(whole, None if strict and issues else blocks[-1], issues)


def not_finite(logprobs: Mapping[str, float]) -> tuple[Issue, ...]:
    """An issue if the log-probability of one of these answers is NaN or infinite; else none.

    Engines score given answers before any mask, so that minus infinity is never the mark of an excluded one.
    """
    odd = [f"{text!r}: {value}" for text, value in logprobs.items() if not math.isfinite(value)]
    return (issue(NOT_FINITE, ", ".join(odd)),) if odd else ()


def _not_finite_tokens(completion: Completion) -> tuple[Issue, ...]:
    """The issue of a generated text if the log-probability of one of its tokens is NaN or infinite; else none."""
    # Not fsum, which raises where infinities of both signs meet.
    if completion.logprobs is None or math.isfinite(sum(completion.logprobs)):
        return ()
    return (issue(NOT_FINITE, completion.text),)


def _answer(text: str, span: tuple[int, int] | None, issues: Iterable[Issue]) -> Answer:
    return Answer(None, tuple(issues)) if span is None else Answer(text[slice(*span)], tuple(issues), span[0])


def _behind_thoughts(text: str) -> tuple[int | None, list[Issue]]:
    """Where the last thought ends, None if that is not closed; with the issue of having thought."""
    tags = thoughts.tags(text)
    if not tags:
        return 0, []
    last = tags[-1]
    if not last["closing"]:
        return None, [issue("open_thought", text[last.start() :])]
    return last.end(), [issue("thought_before_answer", text[: last.end()])]


@cache
def _answer_tags(name: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The tags around answers as they are asked for, and as they are read leniently."""
    return re.compile(f"<(?P<closing>/?){name}>"), re.compile(rf"<\s?(?P<closing>/?)\s?{name}\s?>", re.IGNORECASE)


def _behind_reasoning(text: str, think_end: str, *, strict: bool) -> tuple[int | None, list[Issue]]:
    """Where the reasoning ends, 0 if there is none; None if it is not closed."""
    ended = text.rfind(think_end)
    if strict:
        return (0, [issue("no_think_end", text)]) if ended < 0 else (ended + len(think_end), [])
    start, found = _behind_thoughts(text)
    if start is not None and text[:start].endswith(think_end):
        return start, []
    missing = [] if start is None and ended >= 0 else [issue("no_think_end", text)]
    return start, missing + [one for one in found if one.kind == "open_thought"]


def _blocks(text: str, start: int, tag: re.Pattern[str]) -> tuple[list[tuple[int, int]], str]:
    """The spans of the answer blocks behind `start`, and what stands outside them.

    A closing tag ends what was opened first since the last one. Linear in the text, as a lazy regex is not.
    """
    blocks: list[tuple[int, int]] = []
    outside, cursor = "", start
    opened: re.Match[str] | None = None
    for found in tag.finditer(text, start):
        if not found["closing"]:
            opened = opened or found
        elif opened is not None:
            blocks.append((opened.end(), found.start()))
            outside += text[cursor : opened.start()]
            cursor, opened = found.end(), None
    return blocks, (outside + text[cursor:]).strip()


def _unmarked(completion: Completion, start: int, tag: re.Pattern[str]) -> tuple[int, int] | None:
    """The span of an answer that no block marks: behind `<answer>` that is left open, or else behind the thought.

    None where the completion was cut, or where nothing says that the thought has ended.
    """
    text = completion.text
    opened = [found for found in tag.finditer(text, start) if not found["closing"]]
    begin = opened[-1].end() if opened else start
    if completion.finish_reason == "length" or begin == 0 or not text[begin:].strip():
        return None
    return begin, len(text)


def without_cut_number(completion: Completion, answer: str) -> str:
    """An answer without the digits that end it where the completion was cut: a 1 may have been meant as a 12."""
    return re.sub(r"[0-9.]+$", "", answer) if completion.finish_reason == "length" else answer


def no_answer(answer: Answer) -> Judgment:
    """The judgment of a completion in which no answer was found."""
    return Judgment(Status.tags, issues=answer.issues)


def wrong_ids(ids: Sequence[int], n: int, written: Callable[[int], str] = "[{}]".format) -> list[Issue]:
    """One issue for every identifier that is repeated, missing or outside 1..n, with the identifier as `written`."""
    asked, given = set(range(1, n + 1)), set(ids)
    found: list[Issue] = []
    if len(given) < len(ids) or not given <= asked:
        counts = Counter(ids)
        found += [issue("id_out_of_range", written(i)) for i in counts if i not in asked]
        found += [issue("repeated_id", written(i)) for i, count in counts.items() if count > 1]
    return found + [issue("missing_id", written(i)) for i in sorted(asked - given)]


def written(answer: str, *, reasoning: bool, thought: str = "", think_open: bool = False, tags: Tags = DEFAULT) -> str:
    """A completion with this answer, as `find_answer` reads it; without `<think>` where the prompt ends with it."""
    if not reasoning:
        return answer
    opening = "" if think_open else tags.think_open
    return f"{opening}{thought}{tags.think_end}{tags.open}{answer}{tags.close}"


def scaled(example: RankingExample, docid: str, max_score: int) -> int:
    """A document's grade on the scale 0..max_score, whose end is the query's highest grade."""
    highest = max([1, *example.qrels.values()])
    return round(example.gain(docid) / highest * max_score)


def thought(example: RankingExample, docids: Sequence[str], name: Callable[[int], str] = str) -> str:
    """A short line of reasoning: the words that the query shares with its two best passages; at most 30 words.

    These have the highest grades above 0, the best first and equal ones in the order shown, so that the reasoning names
    what the answer behind it puts on top. Of a single passage the words alone are said, whether it is relevant or not:
    it is the answer that decides, and says with its probability how surely. `name` is how the prompt names the document
    with an identifier.
    """
    query = _words(example.query)
    if len(docids) == 1:
        shared = _shared(query, example, docids[0])
        return f"The passage {f'mentions {shared}' if shared else 'shares no word with the query'}."
    lines = [f"The query is about {' '.join(list(query)[:8])}."] if query else []
    grades = {i: example.qrels.get(d, 0) for i, d in enumerate(docids, start=1)}
    relevant = [i for i in grades if grades[i] > 0]
    for identifier in sorted(relevant, key=lambda i: -grades[i])[:2]:
        shared = _shared(query, example, docids[identifier - 1])
        lines.append(f"Passage {name(identifier)} {f'mentions {shared}' if shared else 'answers it in other words'}.")
    return " ".join(lines)


def _shared(query: Iterable[str], example: RankingExample, docid: str) -> str:
    """The three longest of the query's words that the document has, in the query's order."""
    candidate = example.candidate(docid)
    words = _words(f"{candidate.title} {candidate.text}")
    both = [word for word in query if word in words]
    longest = sorted(both, key=len, reverse=True)[:3]
    return ", ".join(word for word in both if word in longest)


def _words(text: str) -> dict[str, None]:
    """Lower-case words of at least three letters or digits, in order, each once."""
    return dict.fromkeys(re.findall(r"[^\W_]{3,}", text.lower()))
