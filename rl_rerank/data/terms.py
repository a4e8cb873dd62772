"""The terms of a text, by which BM25 finds it: stems of words, and bigrams where a script has no spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

LANGUAGES: Mapping[str, tuple[str | None, str | None]] = {
    "ar": ("arabic", None),
    "da": ("danish", "DANISH"),
    "de": ("german", "GERMAN"),
    "el": ("greek", None),
    "en": ("porter", "EN"),
    "es": ("spanish", "SPANISH"),
    "fi": ("finnish", None),
    "fr": ("french", "FRENCH"),
    "hi": ("hindi", None),
    "hu": ("hungarian", None),
    "id": ("indonesian", None),
    "it": ("italian", "ITALIAN"),
    "ja": (None, None),
    "ko": (None, "KOREAN"),
    "nl": ("dutch", "DUTCH"),
    "no": ("norwegian", "NORWEGIAN"),
    "pt": ("portuguese", "PORTUGUESE"),
    "ro": ("romanian", None),
    "ru": ("russian", "RUSSIAN"),
    "sv": ("swedish", "SWEDISH"),
    "th": (None, None),
    "tr": ("turkish", "TURKISH"),
    "zh": (None, None),
}
"""ISO 639-1 code -> Snowball's stemmer and bm25s' list of stop words; None: there is none."""

_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai, without its digits and signs
    "\u0e81-\u0ece\u1000-\u109f\u1780-\u17d3"  # Lao, Burmese, Khmer
    "\u3005\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # kana, with the long vowel
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
UNSPACED = re.compile(f"[{_UNSPACED}]+")
"""A run of a script without spaces between words."""
_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u3099\u309a"  # Thai vowels and tones, Japanese voicing
WORD = re.compile(f"[{_UNSPACED}]{{1,2}}[{_MARKS}]*|[^\\s{_UNSPACED}]+")
"""A word, or two characters of a script without spaces with the marks on them."""
_HALF_WIDTH = re.compile("[\uff66-\uff9f]")


def check(language: str) -> None:
    """Refuse an unknown language.

    Raises:
        ValueError: with the known ones.
    """
    if language not in LANGUAGES:
        raise ValueError(f"data.language must be one of {', '.join(LANGUAGES)}; got {language!r}")


def terms(texts: Sequence[str], language: str) -> list[list[str]]:
    """Divide texts into terms.

    Words are in lower case and of two characters or more, without the language's stop words, as its stems. A run of a
    script without spaces becomes its bigrams, whatever the language, as Lucene's CJKAnalyzer makes them; one character
    by itself is a term.
    """
    import bm25s  # With numba, which every command would import otherwise.
    import Stemmer
    from bm25s import stopwords

    stemmer, stop = LANGUAGES[language]
    # Half-width kana are the same characters, and their voicing marks characters of their own.
    texts = [unicodedata.normalize("NFKC", text) if _HALF_WIDTH.search(text) else text for text in texts]
    tokens = bm25s.tokenize(
        [UNSPACED.sub(" ", text) for text in texts],
        stopwords=getattr(stopwords, f"STOPWORDS_{stop}") if stop else [],
        stemmer=Stemmer.Stemmer(stemmer) if stemmer else None,  # pyright: ignore[reportArgumentType]
        return_ids=False,
        show_progress=False,
    )
    assert isinstance(tokens, list)
    return [[*words, *_bigrams(text)] for words, text in zip(tokens, texts, strict=True)]


def _bigrams(text: str) -> Iterator[str]:
    for run in UNSPACED.findall(text):
        yield from (run[i : i + 2] for i in range(max(len(run) - 1, 1)))
