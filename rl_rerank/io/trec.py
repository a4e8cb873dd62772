"""TREC's plain text files: qrels and runs, read strictly and written so that every reader sees the same order."""

import gzip
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from rl_rerank.io.files import write_bytes
from rl_rerank.types import Ranking

_QRELS_LINE = "expected 'qid iteration docid grade'"
_SUBTOPICS_LINE = "expected 'qid subtopic docid grade'"
_RUN_LINE = "expected 'qid Q0 docid rank score tag'"


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file with their numbers from 1; a name that ends in .gz is decompressed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and line for bytes that are not UTF-8, and the file for a broken gzip stream.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        number = 0
        try:
            for raw in file:
                text = raw.decode("utf-8" if number else "utf-8-sig")
                number += 1
                yield number, text.rstrip("\r\n")
        except UnicodeDecodeError as e:
            byte = f"byte 0x{e.object[e.start]:02x} at position {e.start} of the line"
            raise ValueError(f"{path}:{number + 1}: expected UTF-8 text; got {byte}") from None
        except (gzip.BadGzipFile, zlib.error, EOFError) as e:
            raise ValueError(f"{path}: a broken gzip file, after line {number}: {e}") from None


def read_qrels(path: str | Path, *, spaced: bool = False) -> dict[str, dict[str, int]]:
    """qid -> docid -> grade. Blank lines and lines that begin with # are skipped.

    With `spaced`, a docid is all that stands between the second column and the last, as `one_word` writes it.

    Raises:
        ValueError: naming file and line for a line that is not `qid iteration docid grade` or contradicts another.
    """
    qrels: dict[str, dict[str, int]] = {}
    for place, fields in _rows(Path(path)):
        if spaced and len(fields) > 4:
            fields = [*fields[:2], one_word(" ".join(fields[2:-1])), fields[-1]]
        if len(fields) != 4:
            raise ValueError(f"{place}: {_QRELS_LINE}; got {len(fields)} fields: {' '.join(fields)[:80]!r}")
        qid, _, docid, text = fields
        grade = parse_grade(text, place, _QRELS_LINE)
        add_judgment(qrels, qid, docid, grade, place)
    return qrels


def read_subtopics(path: str | Path) -> dict[str, dict[str, dict[str, int]]]:
    """qid -> subtopic -> docid -> grade, of a diversity file: `qid subtopic docid grade`.

    Raises:
        ValueError: naming file and line for a line that does not have this form or contradicts another.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for place, fields in _rows(Path(path)):
        if len(fields) != 4:
            raise ValueError(f"{place}: {_SUBTOPICS_LINE}; got {len(fields)} fields: {' '.join(fields)[:80]!r}")
        qid, subtopic, docid, text = fields
        grade = parse_grade(text, place, _SUBTOPICS_LINE)
        known = found.setdefault(qid, {}).setdefault(subtopic, {}).setdefault(docid, grade)
        if known != grade:
            what = f"qid {qid!r}, subtopic {subtopic!r} and docid {docid!r}"
            raise ValueError(f"{place}: expected one grade for {what}; got {grade} here and {known} before")
    return found


def parse_grade(text: str, place: str, expected: str) -> int:
    """A grade as an integer; ValueError where it is none."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{place}: {expected}; got {text!r} as the grade, which is not an integer") from None


def add_judgment(qrels: dict[str, dict[str, int]], qid: str, docid: str, grade: int, place: str) -> None:
    """Enter one judgment; ValueError where the pair is already there with another grade."""
    known = qrels.setdefault(qid, {}).setdefault(docid, grade)
    if known != grade:
        raise ValueError(
            f"{place}: expected one grade for qid {qid!r} and docid {docid!r}; got {grade} here and {known} before"
        )


def read_run(path: str | Path, *, spaced: bool = False) -> dict[str, dict[str, float]]:
    """qid -> docid -> score, in file order.

    As in trec_eval the score decides, and neither the rank column nor text behind the tag is read. With `spaced`, the
    tag is one word, and a docid is all that stands between the second column and the last three, as `one_word` writes
    it.

    Raises:
        ValueError: naming file and line for a line that is not `qid Q0 docid rank score tag`, or a repeated docid.
    """
    run: dict[str, dict[str, float]] = {}
    for place, fields in _rows(Path(path)):
        if spaced and len(fields) > 6:
            fields = [*fields[:2], one_word(" ".join(fields[2:-3])), *fields[-3:]]
        if len(fields) < 6:
            raise ValueError(f"{place}: {_RUN_LINE}; got {len(fields)} fields: {' '.join(fields)[:80]!r}")
        qid, _, docid, _, text = fields[:5]
        scores = run.setdefault(qid, {})
        if docid in scores:
            raise ValueError(f"{place}: expected each docid once for a qid; got {docid!r} again for qid {qid!r}")
        scores[docid] = _score(text, place)
    return run


def one_word(docid: str) -> str:
    """A docid that may hold white space as it stands in TREC's files: with %20 for each stretch of it."""
    return "%20".join(docid.split())


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """docids as trec_eval orders them: by 32-bit float score, highest first; of equal ones the larger docid first."""
    return [docid for _, docid in sorted(zip(_rounded(scores), scores, strict=True), reverse=True)]


def file_order(scores: Mapping[str, float]) -> list[str]:
    """docids by 32-bit float score, highest first; equal ones in the given order."""
    ranked = sorted(zip(_rounded(scores), scores, strict=True), key=lambda pair: -pair[0])
    return [docid for _, docid in ranked]


def _rounded(scores: Mapping[str, float]) -> list[float]:
    values = np.fromiter(scores.values(), dtype=np.float64, count=len(scores))
    if np.isnan(values).any():
        docid = next(d for d, score in scores.items() if math.isnan(score))
        raise ValueError(f"docid {docid!r} has the score nan, which has no place in an order")
    with np.errstate(over="ignore"):
        return values.astype(np.float32).tolist()


def write_run(path: str | Path, rankings: Iterable[Ranking], tag: str) -> None:
    """Write a run file whole or not at all, with scores that stay strictly decreasing as 32-bit floats.

    Raises:
        ValueError: for a score that is not finite or that rises along `docids`, and for a name that holds white space.
    """
    _check_name(tag, "the tag")
    written = [line for ranking in rankings for line in _run_lines(ranking, tag)]
    _write(Path(path), "".join(written))


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write a qrels file whole or not at all."""
    written: list[str] = []
    for qid, grades in qrels.items():
        _check_name(qid, "a qid")
        for docid, grade in grades.items():
            _check_name(docid, f"a docid of qid {qid!r}")
            written.append(f"{qid} 0 {docid} {grade}\n")
    _write(Path(path), "".join(written))


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in lines(path):
        fields = line.split()
        if fields and not line.startswith("#"):
            yield f"{path}:{number}", fields


def _score(text: str, place: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"{place}: {_RUN_LINE}; got {text!r} as the score, which is not a finite number")
    return score


def _run_lines(ranking: Ranking, tag: str) -> Iterator[str]:
    _check_name(ranking.qid, "a qid")
    exact, previous = math.inf, np.float32(np.inf)
    for rank, docid in enumerate(ranking.docids, start=1):
        _check_name(docid, f"a docid of qid {ranking.qid!r}")
        score = ranking.scores[docid]
        if not abs(score) < np.finfo(np.float32).max:
            raise ValueError(f"qid {ranking.qid!r}, docid {docid!r}: {score} cannot be written as a score")
        if score > exact:
            raise ValueError(f"qid {ranking.qid!r}, docid {docid!r}: score {score} is above {exact}, one rank before")
        # Readers hold scores as 32-bit floats and would break a tie by docid: the order must survive that.
        value = min(np.float32(score), np.nextafter(previous, np.float32(-np.inf)))
        yield f"{ranking.qid} Q0 {docid} {rank} {float(value):.9g} {tag}\n"
        exact, previous = score, value


def _check_name(name: str, what: str) -> None:
    if not name or len(name.split()) != 1 or name != name.strip():
        raise ValueError(f"{what} must be one word to stand in a TREC file; got {name!r}")


def _write(path: Path, text: str) -> None:
    content = text.encode()
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
