"""Handling documents longer than the prompt: cutting, passages, or summaries for the query.

head    the whole text; rendering cuts it to the prompt's budget
firstp  the first passage only
maxp    every passage is a candidate of its own; a document's score is its best passage's
sump    the same, with the sum over its passages as a document's score
quite   the sentences that cover the query's words best, in the order of the text

FirstP, MaxP and SumP: Dai and Callan 2019, https://arxiv.org/abs/1905.09217. QUITE: Zou et al. 2021,
https://arxiv.org/abs/2105.11108.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from rl_rerank.config import LongDocumentsConfig
from rl_rerank.data.terms import WORD
from rl_rerank.metrics.logistic import sigmoid
from rl_rerank.paradigms.ordering import counts, rank_by_scores
from rl_rerank.types import Candidate, Ranking, RankingExample

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n+")


class View(NamedTuple):
    """An example as shown to the model."""

    example: RankingExample
    owners: Mapping[str, str]
    """docid of a passage -> docid of its document; empty if the documents themselves are candidates."""

    def passages(self, docid: str) -> list[str]:
        """Docids of a document's passages, in the order of its text; the document itself if it is a candidate."""
        return [passage for passage, owner in self.owners.items() if owner == docid] or [docid]


def view(example: RankingExample, settings: LongDocumentsConfig) -> View:
    """Cut, split or summarise the example's documents."""
    if settings.splits:
        return _split(example, settings.words, settings.overlap)
    weights = idf(c.text for c in example.candidates) if settings.mode == "quite" else {}

    def shown(candidate: Candidate) -> Candidate:
        match settings.mode:
            case "firstp":
                return replace(candidate, text=passages(candidate.text, settings.words, settings.overlap)[0])
            case "quite":
                summary = quite(example.query, candidate.text, weights, settings.sentences, settings.alpha)
                return replace(candidate, text=summary)
            case _:
                return candidate

    return View(replace(example, candidates=tuple(map(shown, example.candidates))), {})


def passages(text: str, words: int, overlap: int) -> list[str]:
    """Split a text into at least one piece of `words` words, with `overlap` words in common with the previous one.

    Where a script has no spaces, two characters count as a word.
    """
    found = list(WORD.finditer(text))
    pieces: list[str] = []
    for start in range(0, max(len(found) - overlap, 1), words - overlap):
        piece = found[start : start + words]
        pieces.append(text[piece[0].start() : piece[-1].end()] if piece else text)
    return pieces


def aggregate(example: RankingExample, shown: View, ranking: Ranking, *, mode: str, scale: str) -> Ranking:
    """Convert a ranking of passages to one of documents.

    Passages that the model did not score are ignored; documents without scores are imputed from the first stage.
    Documents with equal scores keep the order of their first passages in the prompt.

    Args:
        mode: `maxp` or `sump`.
        scale: the paradigm's; log-odds are summed as probabilities, because a sum of logs would penalise length.
    """
    given: dict[str, list[float]] = {}
    for passage, score in (ranking.raw_scores or {}).items():
        given.setdefault(shown.owners[passage], []).append(score)
    if mode == "maxp":
        scores = {docid: max(values) for docid, values in given.items()}
    else:
        scores = {
            docid: sum(sigmoid(v) if scale == "log_odds" else v for v in values) for docid, values in given.items()
        }
    order = dict.fromkeys(shown.owners[passage] for passage in shown.example.docids)
    documents = replace(example, candidates=tuple(map(example.candidate, order)))
    ranked = rank_by_scores(documents, scores, num_prompts=0, num_malformed=0, num_fallbacks=0)
    return replace(ranked, **counts([ranking]))


def quite(query: str, text: str, weights: Mapping[str, float], num_sentences: int, alpha: float) -> str:
    """Query-weighted summary: `num_sentences` sentences, chosen one by one, in the order of the text.

    Each step takes the sentence whose distinct query words weigh most, then multiplies the weights of the words it
    covers by `alpha`, so that the next one adds something new. Ties go to the first sentence.

    Args:
        weights: word -> weight; an absent query word weighs 1. The paper does not define them: inverse document
            frequencies are our reconstruction, and so is the default of `alpha`.
        alpha: in (0, 1).
    """
    sentences = [sentence for sentence in map(str.strip, SENTENCE_END.split(text)) if sentence]
    asked = {word: weights.get(word, 1.0) for word in _words(query)}
    covers = [asked.keys() & _words(sentence) for sentence in sentences]
    chosen: set[int] = set()
    for _ in range(min(num_sentences, len(sentences))):
        left = [i for i in range(len(sentences)) if i not in chosen]
        # Summed in sorted order: a set's order differs between processes, and with it the last bit of a sum.
        best = max(left, key=lambda i: (sum(asked[word] for word in sorted(covers[i])), -i))
        chosen.add(best)
        for word in covers[best]:
            asked[word] *= alpha
    return " ".join(sentences[i] for i in sorted(chosen))


def idf(texts: Iterable[str]) -> dict[str, float]:
    """Map word to ln(1 + (N - n + 0.5) / (n + 0.5)), BM25's idf if n of these N texts have it."""
    found = [_words(text) for text in texts]
    holding: dict[str, int] = {}
    for words in found:
        for word in words:
            holding[word] = holding.get(word, 0) + 1
    return {word: math.log1p((len(found) - n + 0.5) / (n + 0.5)) for word, n in holding.items()}


def _split(example: RankingExample, words: int, overlap: int) -> View:
    candidates: list[Candidate] = []
    owners: dict[str, str] = {}
    for candidate in example.candidates:
        for number, piece in enumerate(passages(candidate.text, words, overlap), start=1):
            docid = f"{candidate.docid}#{number}"
            owners[docid] = candidate.docid
            candidates.append(replace(candidate, docid=docid, text=piece, rank=len(candidates) + 1))
    return View(replace(example, candidates=tuple(candidates)), owners)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
