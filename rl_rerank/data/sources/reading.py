"""Reading the tables that collections are made of: corpora, queries and records, one a line."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rl_rerank.data.records import Document, Omissions, Query
from rl_rerank.io import trec
from rl_rerank.io.trec import lines

_DOCID_KEYS = ("docid", "_id", "id")
_TEXT_KEYS = ("text", "contents", "content")
SPLITS = {"train": "train", "dev": "dev", "test": "test", "validation": "dev", "valid": "dev", "val": "dev"}
"""How files call a split -> how we do."""


def existing(folder: Path, name: str) -> Path:
    """The file `name` of `folder`, plain or with .gz; FileNotFoundError where there is neither."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise FileNotFoundError(f"{str(folder)!r} has no file {name} or {name}.gz")


def digest(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents."""
    total = hashlib.sha256()
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r}")
        with path.open("rb") as file:
            total.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`path:line`, object) for every line of a jsonl file; blank lines are skipped."""
    for number, line in lines(path):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:  # also for numbers of thousands of digits, and deep nesting
            raise ValueError(f"{place}: expected one JSON object; got {line[:80]!r}: {e}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{place}: expected one JSON object; got {line[:80]!r}")
        yield place, row


def string(row: dict[str, Any], keys: tuple[str, ...], place: str, default: str | None = None) -> str:
    """The text under the first of `keys` that is there."""
    for key in keys:
        value = row.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{place}: {key} must be a string; got {value!r:.80}")
        # A lone surrogate is legal JSON and can never be written as UTF-8 again.
        return value.encode("utf-8", "replace").decode()
    if default is None:
        raise ValueError(f"{place}: {keys[0]} is missing; the line has: {', '.join(map(str, row)) or 'nothing'}")
    return default


def identifier(row: dict[str, Any], keys: tuple[str, ...], place: str, *, spaced: bool = False) -> str:
    """A qid or docid: one word, since it has to stand in TREC files. Whole numbers are taken as their digits.

    With `spaced`, white space in it becomes %20.
    """
    for key in keys:
        value = row.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    key = next((key for key in keys if row.get(key) is not None), None)
    value = row[key] if key is not None else None
    return one_word(value if isinstance(value, str) else string(row, keys, place), keys[0], place, spaced=spaced)


def one_word(value: str, what: str, place: str, *, spaced: bool = False) -> str:
    """`value`, where it can stand in a TREC file; with `spaced`, as it can."""
    if spaced:
        value = trec.one_word(value)
    if not trec.is_word(value):
        raise ValueError(f"{place}: {what} must be one word, so that it can stand in a run file; got {value!r:.80}")
    return value


def split_name(value: str, place: str) -> str:
    """train, dev or test; `validation` and its short forms are dev."""
    if value and value not in SPLITS:
        raise ValueError(f"{place}: split must be one of {', '.join(SPLITS)}; got {value!r:.80}")
    return SPLITS[value] if value else ""


def read_documents(path: Path, omissions: Omissions, *, spaced: bool = False) -> dict[str, Document]:
    """A corpus: jsonl {docid, title, text, image}, or `docid TAB text` or `docid TAB title TAB text` in a .tsv file.

    `_id` and `id` may stand for docid, `content` and `contents` for text. Empty documents are left out.

    Raises:
        ValueError: naming file and line for a broken line, and both lines of a repeated docid.
    """
    rows = _document_columns(path, spaced) if ".tsv" in path.suffixes else _document_records(path, spaced)
    documents: dict[str, Document] = {}
    first: dict[str, str] = {}
    for place, docid, document in rows:
        if docid in first:
            raise ValueError(f"{place}: docid {docid!r} is already taken by {first[docid]}; a docid is one document")
        first[docid] = place
        if document.is_empty:
            omissions.add("empty documents left out", f"{place}, docid {docid!r}")
        else:
            documents[docid] = document
    return documents


def read_queries(path: Path, omissions: Omissions, split_of: Callable[[str], str] | None = None) -> list[Query]:
    """Queries: jsonl {qid, text, split, group}, or `qid TAB text` where the name has .tsv.

    `_id` and `id` stand for qid. Empty queries are left out. `split_of` overrules the split in the file.
    """
    rows = _query_columns(path) if ".tsv" in path.suffixes else _query_records(path)
    queries: list[Query] = []
    first: dict[str, str] = {}
    for place, query in rows:
        if query.qid in first:
            raise ValueError(f"{place}: qid {query.qid!r} is already taken by {first[query.qid]}; a qid is one query")
        first[query.qid] = place
        if not query.text.strip():
            omissions.add("empty queries skipped", f"{place}, qid {query.qid!r}")
        else:
            queries.append(query._replace(split=split_of(query.qid)) if split_of else query)
    return queries


def _document_records(path: Path, spaced: bool) -> Iterator[tuple[str, str, Document]]:
    for place, row in records(path):
        image = string(row, ("image",), place, "")
        images = (str(path.parent / image),) if image else ()
        title = string(row, ("title",), place, "")
        # Without any of them the text stands under a name that is not ours, and nothing would be read.
        text = string(row, _TEXT_KEYS, place, None if not {"title", "image", *_TEXT_KEYS} & row.keys() else "")
        document = Document(title, text, images)
        yield place, identifier(row, _DOCID_KEYS, place, spaced=spaced), document


def _document_columns(path: Path, spaced: bool) -> Iterator[tuple[str, str, Document]]:
    for place, fields in columns(path, "'docid TAB text' or 'docid TAB title TAB text'", (2, 3)):
        title = fields[1] if len(fields) == 3 else ""
        yield place, one_word(fields[0], "docid", place, spaced=spaced), Document(title, fields[-1])


def read_excluded(folder: Path, *, spaced: bool = False) -> dict[str, set[str]]:
    """qid -> docids that are no candidates, from the folder's `excluded.tsv` of `qid TAB docid`, where there is one."""
    file = folder / "excluded.tsv"
    excluded: dict[str, set[str]] = {}
    for place, (qid, docid) in columns(file, "'qid TAB docid'", (2,)) if file.is_file() else ():
        excluded.setdefault(qid, set()).add(one_word(docid, "docid", place, spaced=spaced))
    return excluded


def _query_records(path: Path) -> Iterator[tuple[str, Query]]:
    for place, row in records(path):
        split = split_name(string(row, ("split",), place, ""), place)
        qid = identifier(row, ("qid", "_id", "id"), place)
        yield place, Query(qid, string(row, ("text", "query"), place), split, group=string(row, ("group",), place, ""))


def _query_columns(path: Path) -> Iterator[tuple[str, Query]]:
    for place, fields in columns(path, "'qid TAB text'", (2,)):
        yield place, Query(one_word(fields[0], "qid", place), fields[1])


def columns(path: Path, expected: str, widths: tuple[int, ...]) -> Iterator[tuple[str, list[str]]]:
    """(`path:line`, fields) for every line of a tab-separated file that is not blank."""
    for number, line in lines(path):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) not in widths:
            raise ValueError(f"{path}:{number}: expected {expected}; got {len(fields)} columns: {line[:80]!r}")
        yield f"{path}:{number}", fields
