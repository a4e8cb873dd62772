"""What a paradigm's parser makes of stored completions: `rl-rerank parse`.

A row of the input is a completion and how many documents its prompt showed, or which:

    {"n": 3, "text": "[2] > [1]"}
    {"docids": ["a", "b", "c"], "text": "[2] > [1]", "finish_reason": "length"}

A row of the output is what is made of it:

    {"line": 1, "strict": "ids", "lenient": "repaired", "ids": [2, 1], "order": [2, 1, 3],
     "scores": {"1": 2.0, "2": 3.0, "3": 1.0}, "issues": [{"kind": "missing_id", "place": "[3]"}]}

`strict` is the status that a reward sees. `order` (identifiers from 1, best first, equal scores in prompt order) and
`scores` (by docid; by identifier where the row has none) are the lenient reading, empty where nothing could be read.
`ids` are the identifiers as they were written, `issues` everything that either reading found.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rl_rerank.config import file_arguments
from rl_rerank.data.sources.reading import records, string
from rl_rerank.io.files import write_text
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.types import Completion, Judgment, Prompt

FILES = ("completions", "output")


def split(overrides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The values of `completions=` and `output=`, which may hold any character, and the other overrides.

    Raises:
        ValueError: if `completions` is missing.
    """
    return file_arguments("parse", overrides, FILES, required=FILES[:1])


def parse_file(path: Path, paradigm: Paradigm) -> Iterator[dict[str, Any]]:
    """One row for each completion of a jsonl file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and line for a row that is no completion of this paradigm.
    """
    for place, row in records(path):
        completion = Completion(string(row, ("text",), place), finish_reason=_finish_reason(row, place))
        docids = _docids(row, place)
        prompt = Prompt("", docids, (), paradigm.name)
        try:
            strict, lenient = (paradigm.parse(prompt, completion, strict=strict) for strict in (True, False))
        except ValueError as e:  # Completions cannot raise; a number of documents that the paradigm never shows can.
            raise ValueError(f"{place}: {paradigm.name} has no answers about {len(docids)} documents: {e}") from None
        yield {"line": int(place.rpartition(":")[2]), **_read(docids, strict, lenient)}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as jsonl, whole or not at all."""
    write_text(path, "".join(f"{line(row)}\n" for row in rows))


def line(row: dict[str, Any]) -> str:
    """A row as JSON in plain ASCII: a completion may hold what is no UTF-8."""
    return json.dumps(row)


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How many completions have which status, and which issues there are, as sentences."""
    said = [f"{len(rows)} completions"]
    for reading in ("strict", "lenient"):
        counts = Counter(row[reading] for row in rows)
        said.append(f"{reading}: {', '.join(f'{count} {status}' for status, count in counts.most_common()) or 'none'}")
    kinds = Counter(kind for row in rows for kind in {issue["kind"] for issue in row["issues"]})
    said.append(f"issues: {', '.join(f'{kind} in {count}' for kind, count in kinds.most_common()) or 'none'}")
    return said


def _read(docids: Sequence[str], strict: Judgment, lenient: Judgment) -> dict[str, Any]:
    numbered = [(i, lenient.scores[docid]) for i, docid in enumerate(docids, start=1) if docid in lenient.scores]
    return {
        "strict": strict.status,
        "lenient": lenient.status,
        "ids": list(lenient.ids),
        "order": [i for i, _ in sorted(numbered, key=lambda pair: -pair[1])],
        "scores": dict(lenient.scores),
        "issues": [
            {"kind": issue.kind, "place": issue.place} for issue in dict.fromkeys((*strict.issues, *lenient.issues))
        ],
    }


def _docids(row: dict[str, Any], place: str) -> tuple[str, ...]:
    n, docids = row.get("n"), row.get("docids")
    if docids is None:
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(
                f"{place}: give n, the number of documents in the prompt, or their docids; got n={n!r:.80}"
            )
        return tuple(str(i) for i in range(1, n + 1))
    if not isinstance(docids, list) or not docids or not all(isinstance(docid, str) for docid in docids):
        raise ValueError(f"{place}: docids must be a list of strings; got {docids!r:.80}")
    if len(set(docids)) < len(docids):
        raise ValueError(f"{place}: docids names a document twice: {docids!r:.80}")
    if n is not None and n != len(docids):
        raise ValueError(f"{place}: n={n!r:.80}, but there are {len(docids)} docids")
    return tuple(docids)


def _finish_reason(row: dict[str, Any], place: str) -> str:
    reason = string(row, ("finish_reason",), place, "stop")
    if reason not in ("stop", "length"):
        raise ValueError(f"{place}: finish_reason must be stop or length; got {reason!r:.80}")
    return reason
