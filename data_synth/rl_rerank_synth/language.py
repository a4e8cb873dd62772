"""Keeps queries and documents in some languages."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bm25s import stopwords

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample

WORDS: Mapping[str, frozenset[str]] = {
    "da": frozenset(stopwords.STOPWORDS_DANISH),
    "de": frozenset(stopwords.STOPWORDS_GERMAN),
    "en": frozenset(stopwords.STOPWORDS_EN_PLUS),
    "es": frozenset(stopwords.STOPWORDS_SPANISH),
    "fr": frozenset(stopwords.STOPWORDS_FRENCH),
    "it": frozenset(stopwords.STOPWORDS_ITALIAN),
    "nl": frozenset(stopwords.STOPWORDS_DUTCH),
    "no": frozenset(stopwords.STOPWORDS_NORWEGIAN),
    "pt": frozenset(stopwords.STOPWORDS_PORTUGUESE),
    "ru": frozenset(stopwords.STOPWORDS_RUSSIAN),
    "sv": frozenset(stopwords.STOPWORDS_SWEDISH),
    "tr": frozenset(stopwords.STOPWORDS_TURKISH),
}


@dataclass(frozen=True)
class Language:
    """Drops examples whose candidates, taken together, are in a language that is not named.

    A text is in the language of whose frequent words it has the largest share. One with fewer than `evidence` of them
    in any language is not known, and is kept: most queries are too short to tell. Languages without spaces between
    words are never known.
    """

    languages: list[str] = field(default_factory=lambda: ["en"])
    evidence: int = 5

    def __post_init__(self) -> None:
        if unknown := [name for name in self.languages if name not in WORDS]:
            raise ValueError(f"language: {unknown[0]!r} is not known; there are: {', '.join(WORDS)}")

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples that are left; counts the others by their language."""
        for example in examples:
            text = " ".join([example.query, *(candidate.text for candidate in example.candidates)])
            found = language(text, self.evidence)
            if found is None or found in self.languages:
                yield example
            else:
                context.counts[f"in_{found}"] += 1


def language(text: str, evidence: int) -> str | None:
    """The language of a text by its frequent words; None where there are too few of them."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = {name: sum(word in known for word in words) for name, known in WORDS.items()}
    best = max(hits, key=lambda name: hits[name])
    return best if hits[best] >= evidence else None
