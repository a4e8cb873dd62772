"""TREC's plain text files: qrels and runs, read strictly and written so that every reader sees the same order."""

import gzip
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from rl_rerank.io.files import write_bytes
from rl_rerank.types import Ranking

_QRELS_LINE = "expected 'qid iteration docid grade'"
_SUBTOPICS_LINE = "expected 'qid subtopic docid grade'"
_RUN_LINE = "expected 'qid Q0 docid rank score tag'"
_FIELD = re.compile(r"[^ \t\n\v\f\r]+")
_GRADE = re.compile(r"[+-]?[0-9]+(?:\.0*)?")
_RANK = re.compile(r"[+-]?[0-9]+")
HIGHEST_GRADE = 2**31 - 1


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
    """qid -> docid -> grade. Blank lines and comments, which begin with # and white space, are skipped.

    Columns are divided by ASCII white space alone, as trec_eval divides them. With `spaced`, a docid is all that stands
    between the second column and the last, as `one_word` writes it.

    Raises:
        ValueError: naming file and line for a line that is not `qid iteration docid grade` or contradicts another.
    """
    qrels: dict[str, dict[str, int]] = {}
    for place, fields in _rows(Path(path), 4, _QRELS_LINE, spaced_from_end=1 if spaced else 0):
        qid, _, docid, text = fields
        add_judgment(qrels, qid, docid, parse_grade(text, place, _QRELS_LINE), place)
    return qrels


def read_subtopics(path: str | Path) -> dict[str, dict[str, dict[str, int]]]:
    """qid -> subtopic -> docid -> grade, of a diversity file: `qid subtopic docid grade`.

    Raises:
        ValueError: naming file and line for a line that does not have this form or contradicts another.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for place, fields in _rows(Path(path), 4, _SUBTOPICS_LINE):
        qid, subtopic, docid, text = fields
        grade = parse_grade(text, place, _SUBTOPICS_LINE)
        known = found.setdefault(qid, {}).setdefault(subtopic, {}).setdefault(docid, grade)
        if known != grade:
            what = f"qid {qid!r}, subtopic {subtopic!r} and docid {docid!r}"
            raise ValueError(f"{place}: expected one grade for {what}; got {grade} here and {known} before")
    return found


def is_grade(text: str) -> bool:
    """Whether a text is a whole number, as `2` or `2.0`."""
    return _GRADE.fullmatch(text) is not None


def parse_grade(text: str, place: str, expected: str) -> int:
    """A grade as an integer; ValueError if it is none, or beyond 32 bits."""
    if not is_grade(text):
        raise ValueError(f"{place}: {expected}; got {text!r} as the grade, which is not an integer")
    return check_grade(int(text.partition(".")[0]), place)


def check_grade(grade: int, place: str) -> int:
    """Return the grade; ValueError if it is beyond the 32 bits that evaluators have for one."""
    if not -HIGHEST_GRADE <= grade <= HIGHEST_GRADE:
        raise ValueError(f"{place}: expected a grade from {-HIGHEST_GRADE} to {HIGHEST_GRADE}; got {grade!s:.80}")
    return grade


def add_judgment(qrels: dict[str, dict[str, int]], qid: str, docid: str, grade: int, place: str) -> None:
    """Enter one judgment; ValueError where the pair is already there with another grade."""
    known = qrels.setdefault(qid, {}).setdefault(docid, grade)
    if known != grade:
        raise ValueError(
            f"{place}: expected one grade for qid {qid!r} and docid {docid!r}; got {grade} here and {known} before"
        )


def read_run(path: str | Path, *, spaced: bool = False) -> dict[str, dict[str, float]]:
    """qid -> docid -> score, in file order.

    Columns are divided by ASCII white space alone. As in trec_eval the score decides and the rank does not; but there
    are six columns with an integer for the rank, or a docid with white space in it would shift them. With `spaced`, a
    docid is all that stands between the second column and the last three, as `one_word` writes it.

    Raises:
        ValueError: naming file and line for a line that is not `qid Q0 docid rank score tag`, or a repeated docid.
    """
    run: dict[str, dict[str, float]] = {}
    for place, fields in _rows(Path(path), 6, _RUN_LINE, spaced_from_end=3 if spaced else 0):
        qid, _, docid, rank, text, _ = fields
        if _RANK.fullmatch(rank) is None:
            raise ValueError(f"{place}: {_RUN_LINE}; got {rank!r:.80} as the rank, which is not an integer")
        scores = run.setdefault(qid, {})
        if docid in scores:
            raise ValueError(f"{place}: expected each docid once for a qid; got {docid!r} again for qid {qid!r}")
        scores[docid] = _score(text, place)
    return run


def is_word(name: str) -> bool:
    """Whether a qid or docid can stand in a TREC file, so that it is read as it was written.

    White space other than ASCII's is a part of a name. A lone # would be a comment, and a byte order mark at the
    beginning of a file is no part of its text. NUL ends a text in evaluators.
    """
    return _is_field(name) and name != "#" and not name.startswith("\ufeff")


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
        ValueError: for what `read_run` would not read: a name that is no word, a qid or a docid of it that comes
            twice, a score that is not finite; or for a score that rises along `docids`.
    """
    if not _is_field(tag):
        raise ValueError(f"the tag must be one word to stand in a TREC file; got {tag!r}")
    written: list[str] = []
    seen: set[str] = set()
    for ranking in rankings:
        if ranking.qid in seen:
            raise ValueError(f"qid {ranking.qid!r} has two rankings; a run has one for each query")
        seen.add(ranking.qid)
        written += _run_lines(ranking, tag)
    _write(Path(path), "".join(written))


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write a qrels file whole or not at all.

    Raises:
        ValueError: for what `read_qrels` would not read: a name that is no word, a grade beyond 32 bits.
    """
    written: list[str] = []
    for qid, grades in qrels.items():
        _check_name(qid, "a qid")
        for docid, grade in grades.items():
            _check_name(docid, f"a docid of qid {qid!r}")
            written.append(f"{qid} 0 {docid} {check_grade(grade, f'qid {qid!r}, docid {docid!r}'):d}\n")
    _write(Path(path), "".join(written))


def _rows(path: Path, count: int, expected: str, *, spaced_from_end: int = 0) -> Iterator[tuple[str, list[str]]]:
    """(`path:line`, fields) for every line that is neither blank nor a comment.

    Args:
        count: how many columns there are.
        spaced_from_end: if not 0, the third column may hold white space, and this many columns follow it.
    """
    for number, line in lines(path):
        fields = _FIELD.findall(line)
        if not fields or fields[0] == "#":
            continue
        place = f"{path}:{number}"
        if spaced_from_end and len(fields) >= count:
            docid = one_word(" ".join(fields[2:-spaced_from_end]))
            fields = [*fields[:2], docid, *fields[-spaced_from_end:]]
        if len(fields) != count or "\0" in line:
            raise ValueError(f"{place}: {expected}; got {_found(fields)}: {line.strip()[:80]!r}")
        yield place, fields


def _found(fields: list[str]) -> str:
    if any("\0" in field for field in fields):
        return "a NUL character"
    comment = "; a comment begins with '# '" if fields[0].startswith("#") else ""
    return f"{len(fields)} fields{comment}"


def _score(text: str, place: str) -> float:
    try:
        # Python also reads digits of other scripts and 1_000.
        score = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"{place}: {_RUN_LINE}; got {text!r} as the score, which is not a finite number")
    return score


def _run_lines(ranking: Ranking, tag: str) -> Iterator[str]:
    _check_name(ranking.qid, "a qid")
    if len(set(ranking.docids)) < len(ranking.docids):
        raise ValueError(f"qid {ranking.qid!r} ranks a docid twice: {ranking.docids!r:.200}")
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
        if not np.isfinite(value):
            raise ValueError(
                f"qid {ranking.qid!r}, docid {docid!r}: no 32-bit float is below the score one rank before"
            )
        yield f"{ranking.qid} Q0 {docid} {rank} {float(value):.9g} {tag}\n"
        exact, previous = score, value


def _is_field(text: str) -> bool:
    """Whether a text is one column of a TREC file, and can be written as UTF-8."""
    is_text = not any("\ud800" <= c <= "\udfff" for c in text) if not text.isascii() else True
    return _FIELD.fullmatch(text) is not None and "\0" not in text and is_text


def _check_name(name: str, what: str) -> None:
    if not is_word(name):
        raise ValueError(f"{what} must be one word to stand in a TREC file; got {name!r}")


def _write(path: Path, text: str) -> None:
    content = text.encode()
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
