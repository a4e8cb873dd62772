"""Rankify's mechanism: a file that goes from tool to tool, and the share of questions that are answered at the top."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_rerank.config import ConvertFiles
from rl_rerank.data.convert import convert
from rl_rerank.data.sources import exchange
from rl_rerank.evaluation.measures import evaluate
from rl_rerank.io import trec
from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class RoundTrip:
    """Rankify's file comes back from ours with the same bytes in every field, and the ranking of a stage with it.

    The file is that of the data, or one written of the stage's queries.
    """

    stage: str
    top: Sequence[int] = (1, 5, 10)
    """The k of Top@k: the share of questions with a passage of `has_answer` among the first k."""

    def refuse(self, run: Run) -> None:
        run.rerank(self.stage)

    def __call__(self, run: Run) -> list[Finding]:
        ranked = trec.read_run(run.file(self.stage, "run.trec"))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            theirs, source = self._theirs(run, folder), folder / "ours.jsonl"
            convert(ConvertFiles(input=str(theirs), output=str(source), format="jsonl"))
            back, reranked = folder / "back.json", folder / "reranked.json"
            convert(ConvertFiles(input=str(source), output=str(back), format="rankify"))
            file = str(run.file(self.stage, "run.trec"))
            convert(ConvertFiles(input=str(source), output=str(reranked), format="rankify", run=file))
            items = {str(item["query_id"]): item for item in _items(reranked)}
            return [
                _same(_items(theirs), _items(back)),
                self._ordered(items, ranked),
                self._answered(run, items, ranked),
            ]

    def _theirs(self, run: Run, folder: Path) -> Path:
        data = run.config.data
        if data.source == "rankify" and data.path:
            return Path(data.path)
        written, split = folder / "theirs.json", run.rerank(self.stage).split
        store = Path(run.config.run_dir) / "data"
        convert(ConvertFiles(input=str(store), output=str(written), format="rankify", split=split))
        return written

    def _ordered(self, items: Mapping[str, Any], ranked: Mapping[str, Mapping[str, float]]) -> Finding:
        same = sum([str(c["id"]) for c in items[q]["reranked_ctxs"]] == trec.trec_order(s) for q, s in ranked.items())
        what = f"{self.stage}: reranked_ctxs have the order of the run"
        return Finding(what, same == len(ranked), f"{same} of {len(ranked)} questions")

    def _answered(self, run: Run, items: Mapping[str, Any], ranked: Mapping[str, Mapping[str, float]]) -> Finding:
        qrels = {q: grades for q, grades in run.store.qrels(run.rerank(self.stage).split).items() if q in ranked}
        ours = evaluate(ranked, qrels, [f"Success@{k}" for k in self.top]).mean
        found = {
            k: statistics.fmean(any(c["has_answer"] for c in items[q]["reranked_ctxs"][:k]) for q in qrels)
            for k in self.top
        }
        return Finding(
            f"{self.stage}: Top@k of the file, by has_answer, is Success@k of the evaluation",
            all(abs(value - ours[f"Success@{k}"]) < 1e-12 for k, value in found.items()),
            ", ".join(f"{value:.3f} and {ours[f'Success@{k}']:.3f} at {k}" for k, value in found.items()),
        )


def _items(path: Path) -> list[dict[str, Any]]:
    return [item for _, item in exchange.items(path)]


def _same(theirs: list[dict[str, Any]], back: list[dict[str, Any]]) -> Finding:
    """Every field of every question and context as JSON, byte by byte; what stands beside is not looked at."""
    fields = [
        (_written(one.get(key)), _written(other.get(key)), f"question {number}: {key}")
        for number, (one, other) in enumerate(zip(theirs, back, strict=True), start=1)
        for key in one
    ]
    differing = [(a, b, place) for a, b, place in fields if a != b]
    found = f"{len(fields) - len(differing)} of {len(fields)} fields of {len(theirs)} questions"
    if differing:
        a, b, place = differing[0]
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        found += f"; first: {place}, {a[max(at - 20, 0) : at + 20]!r} became {b[max(at - 20, 0) : at + 20]!r}"
    return Finding("their file comes back from ours with the same bytes in every field", not differing, found)


def _written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
