"""Keeps training data clean of what models are measured on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rl_rerank.data.records import Omissions
from rl_rerank.data.sources.reading import existing, read_documents, read_queries
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.duplicates import normal
from rl_rerank_synth.shorter import only


@dataclass(frozen=True)
class Decontaminate:
    """Drops queries that are a benchmark's or share a run of words with one, and documents that share one with a text.

    Words are compared in lower case without punctuation. A query that is shorter than a run is compared whole. An
    example whose last relevant document goes, goes too. Runs of 13 words for texts are those of GPT-3, Brown et al.
    2020, https://arxiv.org/abs/2005.14165, appendix C; the 8 for queries is ours. Runs are kept as hashes of 8 bytes.
    """

    benchmarks: dict[str, str] = field(default_factory=dict)
    """A name -> a folder with queries.jsonl and, for comparing texts too, corpus.jsonl, plain or with .gz."""
    query_words: int = 8
    passage_words: int = 13
    split: str = "test"
    """Of the benchmarks' queries; one that names no split is of every split. Empty: all queries."""
    passages: bool = True
    """Compare documents with the benchmarks' corpora. Off where you train on a corpus that you are measured on."""

    def __post_init__(self) -> None:
        if not self.benchmarks:
            raise ValueError("decontaminate: benchmarks must name at least one, as {NAME: FOLDER}")
        if self.query_words < 2 or self.passage_words < 2:
            raise ValueError("decontaminate: query_words and passage_words must be at least 2")

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples that are clean; counts `query_exact`, `query_ngram` and `passages`, by benchmark."""
        queries, runs, texts = context.resources.shared(
            ("decontaminate", context.name), lambda: self._read(self.benchmarks)
        )
        for example in examples:
            query = normal(example.query)
            found = queries.get(query)
            kind = "query_exact" if found else "query_ngram"
            if found := found or _first(runs, query, self.query_words):
                context.counts[f"{kind} {found}"] += 1
                continue
            bad = {
                c.docid: name
                for c in example.candidates
                if (name := _first(texts, normal(f"{c.title} {c.text}"), self.passage_words))
            }
            for name in bad.values():
                context.counts[f"passages {name}"] += 1
            if bad:
                clean = only(example, set(example.docids) - bad.keys())
                if any(map(example.gain, example.docids)) and not any(map(example.gain, clean.docids)):
                    context.counts["without_positive"] += 1
                    continue
                example = clean
            if example.candidates:
                yield example

    def _read(self, benchmarks: Mapping[str, str]) -> tuple[dict[str, str], dict[int, str], dict[int, str]]:
        """Whole queries, runs of queries and runs of texts, each with the name of its benchmark."""
        queries: dict[str, str] = {}
        runs: dict[int, str] = {}
        texts: dict[int, str] = {}
        for name, folder in benchmarks.items():
            omissions = Omissions()
            for query in read_queries(existing(Path(folder), "queries.jsonl"), omissions):
                if self.split and query.split and query.split != self.split:
                    continue
                words = normal(query.text)
                queries.setdefault(words, name)
                for run in _runs(words, self.query_words):
                    runs.setdefault(run, name)
            corpus = [f for f in ("corpus.jsonl", "corpus.jsonl.gz") if (Path(folder) / f).is_file()]
            if self.passages and corpus:
                for document in read_documents(Path(folder) / corpus[0], omissions).values():
                    for run in _runs(normal(f"{document.title} {document.text}"), self.passage_words):
                        texts.setdefault(run, name)
        return queries, runs, texts


def _first(table: Mapping[int, str], text: str, length: int) -> str | None:
    """The benchmark of the first run of `text` that is in the table."""
    return next((table[run] for run in _runs(text, length) if run in table), None)


def _runs(text: str, length: int) -> Iterator[int]:
    """Hashes of all runs of `length` words; none of a shorter text."""
    words = text.split()
    for start in range(len(words) - length + 1):
        yield hash(tuple(words[start : start + length]))
