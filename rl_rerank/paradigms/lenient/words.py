"""One of a few words in a loosely written answer: `Yes.`, `**no**, because`, `Answer: yes`, `{"relevant": "yes"}`."""

import re
from collections.abc import Sequence

from rl_rerank.paradigms.lenient.plain import plain

AROUND = ".,;:!\"'*`()[]{}"
ANNOUNCED = r"\b(?:answer|verdict|judge?ment|relevan(?:t|ce)|decision)[\"'*`]*\s*(?:\bis\b|[:=])[\s\"'*`]*"


def loose_word(text: str, words: Sequence[str]) -> int | None:
    """The place among `words` of the one that an answer begins with, or else of the one that it announces.

    None where it does neither, or announces different ones.
    """
    text = plain(text)
    places = {word.lower(): place for place, word in enumerate(words)}
    begins = text.split(maxsplit=1)[:1]
    if begins and (place := places.get(begins[0].strip(AROUND).lower())) is not None:
        return place
    either = "|".join(re.escape(word) for word in sorted(places, key=len, reverse=True))
    alone = re.match(rf"(?:[`\w]*\n)?\s*\\boxed\s*\{{\s*({either})\s*\}}", text, re.IGNORECASE)
    announced = re.findall(rf"{ANNOUNCED}({either})(?![\w.,/]\w)(?!\w)", text, re.IGNORECASE)
    found = {places[word.lower()] for word in ([alone[1]] if alone else announced)}
    return found.pop() if len(found) == 1 else None
