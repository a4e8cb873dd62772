"""Rewards on stored completions: `rl-rerank rewards replay`.

The completions are rows of a training's completions.jsonl, of which only these keys are read:

    {"qid": "q1", "docids": ["b", "a"], "completion": "[2] > [1]", "step": 3, "finish_reason": "stop"}

`text` may replace `completion`; step and finish_reason are optional. Rows with the same qid and step are one query to
a reward of whole queries. A row of the examples is `{qid, query, candidates, qrels}` as data=jsonl reads it, with
optional gold `order` and `scores`. A row of the output:

    {"qid": "q1", "step": 3, "status": "ok", "rewards": {"ndcg": 1.0}, "parts": {}, "reward": 1.0}
"""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_rerank.config import file_arguments
from rl_rerank.data.sources.jsonl import Reader
from rl_rerank.data.sources.reading import identifier, records, string
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.reward.base import Breakdown, Term, evaluate, total
from rl_rerank.types import Candidate, Completion, Prompt, RankingExample, Rollout

FILES = ("completions", "examples", "output")


def split(overrides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split overrides into the values of `completions=`, `examples=` and `output=`, and the rest.

    Raises:
        ValueError: if completions or examples are missing.
    """
    return file_arguments("rewards replay", overrides, FILES, required=FILES[:2])


def replay(completions: Path, examples: Path, terms: Sequence[Term], paradigm: Paradigm) -> list[dict[str, Any]]:
    """Score each completion into a row, in the order of the file.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: for an invalid row, with its place, or a reward that fails.
        LookupError: if no example has a completion's qid or docid.
    """
    known = {example.qid: example for example in read_examples(examples)}
    rollouts, steps, places = [], [], []
    for place, row in records(completions):
        qid = identifier(row, ("qid",), place)
        if qid not in known:
            raise LookupError(f"{place}: qid {qid!r} has no example in {examples}")
        rollouts.append(_rollout(row, place, known[qid], paradigm))
        steps.append(row.get("step"))
        places.append(place)
    queries: dict[Any, list[int]] = {}
    for number, (rollout, step) in enumerate(zip(rollouts, steps, strict=True)):
        queries.setdefault((rollout.prompt.qid, str(step)), []).append(number)
    found: dict[str, dict[int, Breakdown]] = {term.name: {} for term in terms}
    for (qid, _), numbers in queries.items():
        for term in terms:
            values = evaluate(term, known[qid], [rollouts[number] for number in numbers])
            found[term.name].update(zip(numbers, values, strict=True))
    return [_row(terms, rollouts[i], steps[i], {name: found[name][i] for name in found}) for i in range(len(rollouts))]


def read_examples(path: Path) -> Iterator[RankingExample]:
    """Read the examples of a jsonl file, with any gold orders and scores."""
    reader = Reader()
    for place, row in records(path):
        reader.add(place, row)
    collection = reader.collection()
    assert collection.runs is not None
    for query in collection.queries:
        candidates = tuple(
            Candidate(
                docid, collection.documents[docid].text, collection.documents[docid].title, rank=rank, score=score
            )
            for rank, (docid, score) in enumerate(collection.runs[query.qid], start=1)
        )
        yield RankingExample(
            query.qid,
            query.text,
            candidates,
            collection.qrels[query.qid],
            query.instruction,
            order=query.order,
            scores=query.scores,
        )


def summary(terms: Sequence[Term], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Count completions per status, and give a line per term: mean, standard deviation, range."""
    if not rows:
        return ["0 completions"]
    counts = Counter(row["status"] for row in rows)
    said = [f"{len(rows)} completions: {', '.join(f'{count} {status}' for status, count in counts.most_common())}"]
    columns = {term.name: [row["rewards"][term.name] for row in rows] for term in terms}
    columns["reward"] = [row["reward"] for row in rows]
    said.append(f"{'':<24}{'mean':>9}{'std':>9}{'min':>9}{'max':>9}")
    for name, values in columns.items():
        spread = statistics.pstdev(values)
        said.append(f"{name:<24}{statistics.fmean(values):9.4f}{spread:9.4f}{min(values):9.4f}{max(values):9.4f}")
    return said


def _row(terms: Sequence[Term], rollout: Rollout, step: Any, found: Mapping[str, Breakdown]) -> dict[str, Any]:
    values = {name: breakdown.value for name, breakdown in found.items()}
    return {
        "qid": rollout.prompt.qid,
        **({} if step is None else {"step": step}),
        "status": rollout.judgment.status.value,
        "rewards": values,
        "parts": {f"{name}/{part}": v for name, breakdown in found.items() for part, v in breakdown.parts.items()},
        "reward": total(terms, values),
    }


def _rollout(row: dict[str, Any], place: str, example: RankingExample, paradigm: Paradigm) -> Rollout:
    docids = row.get("docids")
    if not isinstance(docids, list) or not docids or len({str(docid) for docid in docids}) < len(docids):
        raise ValueError(
            f"{place}: docids must be the different documents of the prompt, in its order; got {docids!r:.80}"
        )
    for docid in docids:
        if docid not in example.docids:
            raise LookupError(f"{place}: {docid!r} is no candidate of the example {example.qid!r}")
    key = "completion" if "completion" in row else "text"
    completion = Completion(string(row, (key,), place), finish_reason=string(row, ("finish_reason",), place, "stop"))
    prompt = Prompt(example.qid, tuple(docids), (), paradigm.name)
    try:
        return Rollout(prompt, completion, paradigm.parse(prompt, completion, strict=True))
    except ValueError as e:  # Completions cannot raise; a number of documents that the paradigm never shows can.
        raise ValueError(f"{place}: {paradigm.name} has no answers about {len(docids)} documents: {e}") from None
