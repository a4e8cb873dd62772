"""A folder in BEIR's format."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rl_rerank.data.records import Collection, Omissions
from rl_rerank.data.sources.reading import (
    SPLITS,
    digest,
    existing,
    one_word,
    read_documents,
    read_excluded,
    read_queries,
)
from rl_rerank.io import trec

_EXPECTED = "expected 'query-id TAB corpus-id TAB score'"
# A query that two files judge belongs to the one that is held out, or training would see it.
_STRONGEST_LAST = ("train", "dev", "test")
_ENDS = (".tsv", ".tsv.gz")


@dataclass(frozen=True)
class Beir:
    """Reads `corpus.jsonl {_id, title, text}`, `queries.jsonl {_id, text}` and `qrels/{train,dev,test}.tsv`, each plain
    or with .gz, and where there is one `excluded.tsv {qid, docid}`, whose documents are no candidates of their
    queries."""

    path: str
    spaced: bool = False
    """Docids may hold white space, which becomes %20."""

    def read(self) -> Collection:
        """Read everything. Queries that no qrels file names are not used."""
        folder, omissions = Path(self.path), Omissions()
        documents = read_documents(existing(folder, "corpus.jsonl"), omissions, spaced=self.spaced)
        qrels: dict[str, dict[str, int]] = {}
        split_of: dict[str, str] = {}
        for split, file in self._qrels_files().items():
            judged = read_qrels(file, spaced=self.spaced)
            for qid in judged:
                if qid in split_of:
                    omissions.add(f"queries taken out of {split_of[qid]} since {split} judges them too", f"qid {qid!r}")
                split_of[qid] = split
            qrels.update(judged)
        queries = read_queries(existing(folder, "queries.jsonl"), omissions, lambda qid: split_of.get(qid, ""))
        used = [query for query in queries if query.split]
        for file in self._not_read():
            omissions.add("files of qrels not read, because they are none of train, dev and test", f"{file.name!r}")
        excluded = read_excluded(folder, spaced=self.spaced)
        return Collection(documents, used, qrels, excluded=excluded, warnings=omissions.sentences())

    def state(self) -> str:
        """A digest of the files."""
        tables = [existing(Path(self.path), name) for name in ("corpus.jsonl", "queries.jsonl")]
        excluded = [file for file in [Path(self.path) / "excluded.tsv"] if file.is_file()]
        return digest([*tables, *self._qrels_files().values(), *excluded])

    def _qrels_files(self) -> dict[str, Path]:
        folder = Path(self.path) / "qrels"
        found: dict[str, Path] = {}
        for split in _STRONGEST_LAST:
            names = [f"{name}{end}" for name, meant in SPLITS.items() if meant == split for end in _ENDS]
            files = [folder / name for name in names if (folder / name).is_file()]
            if len(files) > 1:
                named = " and ".join(file.name for file in files)
                raise ValueError(f"{str(folder)!r} has {named}, which are all the split {split}; keep one of them")
            if files:
                found[split] = files[0]
        if not found:
            raise FileNotFoundError(f"{str(folder)!r} has none of train.tsv, dev.tsv and test.tsv")
        return found

    def _not_read(self) -> list[Path]:
        read = set(self._qrels_files().values())
        return [file for file in sorted((Path(self.path) / "qrels").iterdir()) if file.is_file() and file not in read]


def read_qrels(path: Path, *, spaced: bool = False) -> dict[str, dict[str, int]]:
    """Three columns under a header; a first line that holds a grade is taken as data."""
    qrels: dict[str, dict[str, int]] = {}
    for place, qid, docid, text in _judgments(path, spaced):
        trec.add_judgment(qrels, qid, docid, trec.parse_grade(text.strip(), place, _EXPECTED), place)
    return qrels


def _judgments(path: Path, spaced: bool) -> Iterator[tuple[str, str, str, str]]:
    for number, line in trec.lines(path):
        place, fields = f"{path}:{number}", line.split("\t")
        if not line.strip():
            continue
        if len(fields) != 3:
            raise ValueError(f"{place}: {_EXPECTED}; got {len(fields)} columns: {line[:80]!r}")
        if number == 1 and not trec.is_grade(fields[2].strip()):
            continue
        docid = one_word(fields[1], "corpus-id", place, spaced=spaced)
        yield place, one_word(fields[0], "query-id", place), docid, fields[2]
