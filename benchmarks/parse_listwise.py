# ruff: noqa: T201 (a script whose output is its table)
"""Check the listwise parser on recorded answers of real models.

    python benchmarks/parse_listwise.py FOLDER

FOLDER holds `with_final_order.jsonl.gz`, answers {n, response, order} with the order that the recording tool made of
each, and `malformed.jsonl.gz`, answers {n, response} that are not in the asked form: doubles, out of range, cut off,
prose. Strict reading has to accept those that are `[i]( > [j])*` as a whole, white space around it aside, and name
every document once; lenient reading has to give the recorded order for every one of the first, and to classify every
one of the second. Prints one row a check and exits with 1 if any fails.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rl_rerank.data.sources.reading import records
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.types import Completion, Judgment, Prompt, Status

ACCEPTED = {"with_final_order": 154, "malformed": 26}
"""File -> how many answers strict reading accepts."""


def read(row: dict[str, Any], *, strict: bool) -> Judgment:
    """The judgment of one recorded answer; docids are the identifiers."""
    prompt = Prompt("", tuple(str(i) for i in range(1, row["n"] + 1)), ())
    return Listwise(window=row["n"]).parse(prompt, Completion(row["response"]), strict=strict)


def order(judgment: Judgment) -> list[int]:
    """Identifiers, best first."""
    return [int(docid) for docid in sorted(judgment.scores, key=lambda docid: -judgment.scores[docid])]


def check(title: str, got: int, expected: int) -> bool:
    """Print the row of one figure."""
    print(f"{'ok' if got == expected else 'DIFFERS':8}{got:5} of {expected:<5} {title}")
    return got == expected


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    checks: list[bool] = []
    for name, accepted in ACCEPTED.items():
        rows = [row for _, row in records(Path(sys.argv[1]) / f"{name}.jsonl.gz")]
        strict = Counter(read(row, strict=True).status for row in rows)
        lenient = [read(row, strict=False) for row in rows]
        checks.append(check(f"{name}: accepted strictly", strict[Status.ok], accepted))
        if name == "with_final_order":
            agreeing = sum(order(j) == row["order"] for j, row in zip(lenient, rows, strict=True))
            checks.append(check(f"{name}: lenient order as recorded", agreeing, len(rows)))
        classified = sum(len(j.scores) in (0, row["n"]) for j, row in zip(lenient, rows, strict=True))
        checks.append(check(f"{name}: classified without an invented or lost document", classified, len(rows)))
        for reading, counts in (("strict", strict), ("lenient", Counter(j.status for j in lenient))):
            print(f"{'':14}{reading}: {', '.join(f'{count} {status}' for status, count in counts.most_common())}")
    print(f"{sum(checks)} of {len(checks)} checks agree")
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
