# ruff: noqa: T201 (a script whose output is its table)
"""One export of each paradigm through every door: order and scores against `Reranker`.

    python benchmarks/doors.py --data FOLDER [--lists 50] [--documents 4] [--model smollm2] [--dtype float32]
        [--paradigms pointwise pointwise_graded first_token listwise] [--doors hf vllm ...]

FOLDER is a collection (corpus.jsonl, queries.jsonl, qrels.tsv, run.NAME.trec). Each of --lists lists has --documents
candidates of a query, so 50 lists of 4 are 200 pairs. Documents must fit --tokens, because doors of pairs cut long ones
elsewhere, which is said on stderr. The model is exported untrained: a door asks weights of any
training in the same way. A listwise model shows that a door of pairs refuses it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rl_rerank.data.sources.collection import CollectionFolder
from rl_rerank.serving import contract, verify
from rl_rerank.serving.comparison import Comparison, gap
from rl_rerank.serving.contract import Contract, GoldenScores
from rl_rerank.serving.doors.opening import PACKAGES, opened

EXPERIMENT = """\
# @package _global_
stages:
  export: {kind: export, model: model, sequence_classification: SEQUENCE_CLASSIFICATION}
"""
PARAMS = {"pointwise_graded": ["paradigms.pointwise_graded.params={rule: expected, max_score: 3}"]}
"""Paradigm -> its settings: grades as those of TREC's judgments, which a forward scores and nothing generates."""
PAIRS = ("cross_encoder", "vllm_score", "seqcls")
"""Doors that ask about a pair at a time, by the folder's chat template."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lists", type=int, default=50)
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=512, help="token budget of a prompt")
    parser.add_argument("--paradigms", nargs="+", default=["pointwise", "pointwise_graded", "first_token", "listwise"])
    parser.add_argument("--doors", nargs="+", default=[*PACKAGES], choices=[*PACKAGES])
    given = parser.parse_args()
    entries = lists(given.data, given.lists, given.documents)
    print(f"{len(entries)} lists, {sum(len(e.documents) for e in entries)} pairs, {given.model} in {given.dtype}\n")
    print("| paradigm | door | lists | in the same order | largest difference of a score | seconds |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for paradigm in given.paradigms:
            folder = exported(Path(place) / paradigm, given, paradigm)
            compare(folder, paradigm, entries, given.doors)


def lists(data: Path, count: int, size: int) -> list[GoldenScores]:
    """Candidates of the collection's queries in first-stage order: all queries' first ones, then their next ones."""
    found = CollectionFolder(str(data)).read()
    if found.runs is None:
        raise SystemExit(f"{data} has no run.NAME.trec, which brings the candidates")
    chosen: list[GoldenScores] = []
    for start in range(0, 1000, size):
        for query in found.queries:
            docids = [docid for docid, _ in found.runs.get(query.qid, ())][start : start + size]
            if len(docids) == size and len(chosen) < count:
                documents = [" ".join(found.documents[docid][:2]).strip() for docid in docids]  # title and text
                chosen.append(GoldenScores(query=query.text, documents=documents, scores=[]))
    return chosen


def exported(place: Path, given: argparse.Namespace, paradigm: str) -> Path:
    """Export the model with the command."""
    experiment = place / "conf/experiment/doors.yaml"
    experiment.parent.mkdir(parents=True)
    classifies = paradigm == "pointwise" and given.dtype == "float32" and "seqcls" in given.doors
    experiment.write_text(EXPERIMENT.replace("SEQUENCE_CLASSIFICATION", str(classifies).lower()))
    command = [
        *(sys.executable, "-m", "rl_rerank", "export", "experiment=doors", f"--config-dir={place / 'conf'}"),
        *(f"run_dir={place / 'run'}", "data=collection", f"data.path={given.data.resolve()}", "reward=[]"),
        *(f"model.path={given.model}", f"model.dtype={given.dtype}", f"model.max_prompt_tokens={given.tokens}"),
        *(f"paradigm={paradigm}", *PARAMS.get(paradigm, ())),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the export failed: {done.stderr}")
    return place / "run/export/model"


def compare(folder: Path, paradigm: str, entries: Sequence[GoldenScores], doors: Sequence[str]) -> None:
    """Print a row of each door; the first one, transformers, is what the others are compared with."""
    terms = contract.read(folder)
    reference = answers(folder, terms, "hf", entries)
    for door in doors:
        started = time.monotonic()
        try:
            found = reference if door == "hf" else answers(folder, terms, door, entries)
        except (ValueError, ImportError, FileNotFoundError, RuntimeError) as e:
            print(f"| {paradigm} | {door} | refused: {' '.join(str(e).split())[:200]} | | | |", flush=True)
            continue
        row = agreement(reference, found, terms.dtype)
        print(f"| {paradigm} | {door} | {row} | {time.monotonic() - started:.0f} |", flush=True)


def answers(folder: Path, terms: Contract, door: str, entries: Sequence[GoldenScores]) -> list[GoldenScores]:
    """Ask a door for every list."""
    if door in PAIRS and not verify.claims_cross_encoder(terms):
        assert terms.cross_encoder is not None
        entries = entries[:1]  # It must refuse the first one.
    asked = opened(folder, terms, door, False)
    try:
        return [asked.answer(entry) for entry in entries]
    finally:
        asked.close()


def agreement(reference: Sequence[GoldenScores], found: Sequence[GoldenScores], dtype: str) -> str:
    """Lists, those in the same order, and the largest difference of a score.

    Documents whose scores are nearer to each other than twice the tolerance may change places.
    """
    compared = Comparison(dtype)
    same = sum(order(one) == order(other) for one, other in zip(reference, found, strict=True))
    for one, other in zip(reference, found, strict=True):
        compared.add(one, other)
    pairs = [
        pair for one, other in zip(reference, found, strict=True) for pair in zip(one.scores, other.scores, strict=True)
    ]
    for problem in compared.problems[:3]:
        print(f"  {problem}", file=sys.stderr)
    return f"{len(found)} | {same} | {max(gap(*pair) for pair in pairs):.1e}"


def order(entry: GoldenScores) -> list[int]:
    """Documents by score, best first, equal ones as given."""
    return sorted(range(len(entry.scores)), key=lambda i: -entry.scores[i])


if __name__ == "__main__":
    main()
