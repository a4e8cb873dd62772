"""A collection in one folder: corpus.jsonl, queries.jsonl, qrels.tsv and runs."""

from dataclasses import dataclass
from pathlib import Path

from rl_rerank.data.records import Collection, Omissions
from rl_rerank.data.sources.reading import digest, existing, read_documents, read_excluded, read_queries, split_name
from rl_rerank.io import trec


@dataclass(frozen=True)
class CollectionFolder:
    """Reads a folder of `corpus.jsonl {docid, title, text}`, `queries.jsonl {qid, text, split, group}`, `qrels.tsv`
    (four columns, as TREC's) and `run.NAME.trec`, each plain or with .gz. Where there is an
    `excluded.tsv {qid, docid}`, its documents are no candidates of their queries."""

    path: str
    run: str = ""
    """NAME of the run that brings the candidates; empty: bm25, or the only one there is, or BM25 over the corpus."""
    split: str = ""
    """Put every query into this split; empty: as the file says."""
    spaced: bool = False
    """Docids may hold white space, which becomes %20."""

    def read(self) -> Collection:
        """Read everything."""
        folder, omissions = Path(self.path), Omissions()
        documents = read_documents(existing(folder, "corpus.jsonl"), omissions, spaced=self.spaced)
        whole = split_name(self.split, "data.params.split")
        queries = read_queries(existing(folder, "queries.jsonl"), omissions, (lambda _: whole) if whole else None)
        qrels = trec.read_qrels(existing(folder, "qrels.tsv"), spaced=self.spaced)
        runs = ranked(self._run_file(), spaced=self.spaced)
        excluded = read_excluded(folder, spaced=self.spaced)
        return Collection(documents, queries, qrels, runs, excluded, omissions.sentences())

    def state(self) -> str:
        """A digest of the files."""
        folder = Path(self.path)
        files = [existing(folder, name) for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv")]
        optional = [file for file in (self._run_file(), folder / "excluded.tsv") if file and file.is_file()]
        return digest([*files, *optional])

    def _run_file(self) -> Path | None:
        found = {file.name.removeprefix("run.").split(".trec")[0]: file for file in Path(self.path).glob("run.*.trec*")}
        if self.run:
            if self.run not in found:
                known = ", ".join(sorted(found)) or "none"
                raise LookupError(f"{self.path!r} has no file run.{self.run}.trec; the runs in it: {known}")
            return found[self.run]
        if len(found) > 1 and "bm25" not in found:
            raise ValueError(f"{self.path!r} has the runs {', '.join(sorted(found))}; choose one with data.params.run")
        return found.get("bm25") or next(iter(found.values()), None)


def ranked(path: Path | None, *, spaced: bool = False) -> dict[str, list[tuple[str, float | None]]] | None:
    """A run file as candidates, best first as trec_eval orders them; None for no file."""
    if path is None:
        return None
    run = trec.read_run(path, spaced=spaced)
    return {qid: [(docid, scores[docid]) for docid in trec.trec_order(scores)] for qid, scores in run.items()}
