"""Queries, documents, judgments and a run that stand in files of their own, as TREC tracks publish them."""

from dataclasses import dataclass
from pathlib import Path

from rl_rerank.data.records import Collection, Omissions
from rl_rerank.data.sources.collection import ranked
from rl_rerank.data.sources.reading import digest, read_documents, read_queries, split_name
from rl_rerank.io import trec


@dataclass(frozen=True)
class TrecFiles:
    """Reads four files. Relative names are relative to `path`, where that is given."""

    queries: str
    """`qid TAB text` in a .tsv file, or jsonl {qid, text, split}."""
    documents: str
    """`docid TAB text` or `docid TAB title TAB text` in a .tsv file, or jsonl {docid, title, text}."""
    qrels: str = ""
    """`qid 0 docid grade`; empty for queries without judgments."""
    run: str = ""
    """`qid Q0 docid rank score tag`; empty: candidates by BM25 over the documents."""
    path: str = ""
    split: str = ""
    """Put every query into this split; empty: as the queries say."""

    def read(self) -> Collection:
        """Read everything."""
        omissions = Omissions()
        whole = split_name(self.split, "data.params.split")
        documents = read_documents(self._file(self.documents), omissions)
        queries = read_queries(self._file(self.queries), omissions, (lambda _: whole) if whole else None)
        qrels = trec.read_qrels(self._file(self.qrels)) if self.qrels else {}
        runs = ranked(self._file(self.run)) if self.run else None
        return Collection(documents, queries, qrels, runs, warnings=omissions.sentences())

    def state(self) -> str:
        """A digest of the files."""
        return digest(self._file(name) for name in (self.queries, self.documents, self.qrels, self.run) if name)

    def _file(self, name: str) -> Path:
        return Path(self.path) / name
