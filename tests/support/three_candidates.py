"""Queries of three candidates each, one of them relevant, as rows of a jsonl collection."""

import json
from pathlib import Path


def write(folder: Path, count: int = 12, *, dev: int = 3) -> Path:
    """Write data.jsonl with `count` queries, of which the first `dev` are the dev split and the others train."""
    rows = [
        {
            "qid": f"q{i}",
            "query": f"query {i}",
            "candidates": [{"docid": f"{i}{c}", "text": f"the text {c} {i}"} for c in "abc"],
            "qrels": {f"{i}{'abc'[i % 3]}": 1},
            "split": "dev" if i < dev else "train",
        }
        for i in range(count)
    ]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
