"""A rerank stage's prompts with their answers on disk: `rollouts.jsonl`, and the texts that its prompts are made of.

A document stands in many prompts and our words in all of them, so `texts.jsonl` holds each piece of text once and a
row's prompt names the pieces by their lines.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rl_rerank.io.files import read_jsonl, write_jsonl
from rl_rerank.types import Rollout

RANKINGS = "rankings.jsonl"
"""A rerank stage's rankings, with the model's own scores."""
ROLLOUTS = "rollouts.jsonl"
TEXTS = "texts.jsonl"


def write(folder: Path, rollouts: Iterable[Rollout]) -> None:
    """Write both files, a row for each rollout in the given order."""
    places: dict[str, int] = {}
    rows = [_row(rollout, places) for rollout in rollouts]
    write_jsonl(folder / TEXTS, places)
    write_jsonl(folder / ROLLOUTS, rows)


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of `rollouts.jsonl`; empty where the stage has none."""
    path = folder / ROLLOUTS
    return read_jsonl(path) if path.is_file() else []


def texts(folder: Path) -> list[str]:
    """The pieces that rows' prompts name."""
    path = folder / TEXTS
    return read_jsonl(path) if path.is_file() else []


def prompt(row: Mapping[str, Any], pieces: list[str]) -> list[tuple[str, str]]:
    """(role, text) of each message, before documents were cut to the token budget; empty where it was not kept."""
    return [(role, "".join(pieces[place] for place in places)) for role, places in row.get("prompt", [])]


def _row(rollout: Rollout, places: dict[str, int]) -> dict[str, Any]:
    continuations = rollout.completion.continuations
    return {
        "qid": rollout.prompt.qid,
        "docids": list(rollout.prompt.docids),
        "text": rollout.completion.text,
        "status": rollout.judgment.status.value,
        "issues": [{"kind": issue.kind, "place": issue.place} for issue in rollout.judgment.issues],
        "continuations": None if continuations is None else dict(continuations),
        "prompt": [
            (message.role, [places.setdefault(segment.text, len(places)) for segment in message.segments])
            for message in rollout.prompt.messages
        ],
    }
