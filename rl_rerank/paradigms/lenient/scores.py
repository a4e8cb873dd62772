"""One document's score in a loosely written answer.

    at the beginning    7, **7**, 7/10, 8 out of 10, 8 (because ...), 7 - on topic, 8 points, 8 分
    behind its name     Score: 7, Relevance score (0-10): 4, {"score": 7}, 得分 8
    in a box            \\boxed{7}
    in a sentence       I rate this an 8 out of 10.

A number is read whole or not at all: no sign, decimal comma, thousand, per cent, power of ten or range loses a part. A
score on another scale than that of the prompt is not read.
"""

import re

from rl_rerank.paradigms.lenient.plain import NUMBER, WHOLE, plain

VALUE = rf"(?P<score>{NUMBER}){WHOLE}"
OPENING, CLOSING = r"[\s\"'*_`(\[$]*", r"[\"'*_`)\]$]*"
SCALE = (
    rf"{CLOSING}\s*(?:points?\s*)?(?:/|\(?\b(?:out\s+of|of|von|sur|de|из)\b)\s*[*_`]*(?P<scale>[0-9]+(?:\.[0-9]+)?)\b"
)
"""Behind a number: the highest score of its scale."""
UNIT = r"\s?(?:points?\b|Punkte?n?\b|分|点|점)"
LEADING = re.compile(
    rf"{OPENING}{VALUE}(?:{SCALE}|{UNIT})?"
    rf"(?=\s*{CLOSING}(?:[.!]?\s*$|[^\S\n]*\n|[,;:]\s(?!\s*[0-9]+(?:\.[0-9]+)?\s*(?:[,;.]|$|or\b|and\b))"
    r"|\s*\((?!\s*[0-9])|\s+(?:because|since|weil)\b|\s+--?\s+(?![0-9])|\.\s+(?=\D)|\s*<\|))",
    re.ASCII | re.IGNORECASE,
)
"""A number at the beginning, unless prose goes on with it: `7`, `**7**`, `7: good`; not `20 years`."""
NAME = (
    r"(?:\b(?:score|rating|relevance|grade|bewertung|punktzahl|relevanz|puntuaci[oó]n|relevancia|note|оценка|релевантность)"
    r"\b|评分|得分|分数|打分|相关度|スコア|점수)"
)
RANGE = (
    r"(?:\s*[(\[]?\s*(?:(?:on\s+)?an?\s+)?(?:scale\s*(?:of|from)?\s*)?(?:from\s+)?"
    r"(?:[0-9]+\s*(?:-|~|,|to|bis)\s*|(?:out\s+of|max\.?)\s+)(?P<of>[0-9]+)\b\s*[)\]]?(?:\s*scale\b)?)?"
)
LABELLED = re.compile(
    rf"{NAME}(?:\s+score)?(?:\s+on)?{RANGE}[\s:=\"'*_`]{{0,6}}(?:(?:is|of|ist|est|es)\b)?[\s:=\"'*_`(\[$]{{0,6}}"
    rf"{VALUE}(?:{SCALE})?",
    re.IGNORECASE,
)
"""A number under its name, such as `Relevance score: 7`, but no scale as in `a score of 0 to 10`."""
FINAL = re.compile(
    rf"\b(?:answer|verdict)\b[\s*]*[:=]{OPENING}{VALUE}(?:{SCALE})?(?=\s*{CLOSING}[.!]?\s*(?:\n|$))", re.I
)
BOXED = re.compile(rf"\\boxed\s*\{{\s*{VALUE}(?P<scale>)\s*\}}")
IN_PROSE = re.compile(rf"(?<![\w.,/-]){VALUE}(?:{SCALE})(?=[*_`]*\s*(?:[.!,;)\]\"']|\n|$))(?!/)", re.IGNORECASE)


def loose_score(answer: str, max_score: int) -> re.Match[str] | None:
    """The score in an answer, as the group `score`; None where there is none, or where scores contradict each other."""
    text = plain(answer)
    if found := LEADING.match(text):
        return found if _is_on_scale(found, max_score) else None
    for form in (BOXED, LABELLED, FINAL):
        if fitting := [match for match in form.finditer(text) if _is_on_scale(match, max_score)]:
            return fitting[-1]
    fitting = [match for match in IN_PROSE.finditer(text) if _is_on_scale(match, max_score)]
    return fitting[-1] if len({float(match["score"]) for match in fitting}) == 1 else None


def _is_on_scale(match: re.Match[str], max_score: int) -> bool:
    ends = [end for name, end in match.groupdict().items() if name in ("scale", "of") and end]
    return is_near(float(match["score"]), max_score) and all(float(end) == max_score for end in ends)


def is_near(value: float, max_score: int) -> bool:
    """Whether a number is on the scale 0..max_score or beyond it by a slip: one point, or a tenth of the scale."""
    slip = max(1.0, max_score / 10)
    return -slip <= value <= max_score + slip
