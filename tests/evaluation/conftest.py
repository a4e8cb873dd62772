"""A small finished experiment on disk: a collection, four rerank stages, two trainings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rl_rerank.config import Config, build
from rl_rerank.evaluation import protocol
from rl_rerank.evaluation.protocol import Protocol
from rl_rerank.io.files import write_json, write_jsonl, write_text
from rl_rerank.io.trec import write_run
from rl_rerank.stages.evaluate import run as evaluate_stage
from rl_rerank.stages.report import run as report_stage
from rl_rerank.types import Ranking

HOSTILE = "<script>alert('q')</script> & $\\frac{"
NUM_QUERIES = 8
ENOUGH = 32
"""Queries of the larger one, whose values a page shows."""


def _collection(folder: Path, count: int) -> None:
    corpus = [
        {
            "docid": f"d{q}-{d}",
            "title": f"Title {d} <img src=x onerror=alert(1)>",
            "text": f"Text {d} of query {q}. </td></table>",
        }
        for q in range(count)
        for d in range(4)
    ]
    queries = [
        {"qid": f"q{q}", "text": f"query {q} {HOSTILE if q == 0 else ''}".strip(), "split": "test"}
        for q in range(count)
    ]
    write_jsonl(folder / "corpus.jsonl", corpus)
    write_jsonl(folder / "queries.jsonl", queries)
    # The third candidate is the relevant one.
    lines = [f"q{q} 0 d{q}-{d} {int(d == 2)}\n" for q in range(count) for d in range(4)]
    write_text(folder / "qrels.tsv", "".join(lines))
    write_run(folder / "run.bm25.trec", [_ranking(q, (0, 1, 2, 3)) for q in range(count)], "bm25")


def _ranking(q: int, order: tuple[int, ...]) -> Ranking:
    docids = tuple(f"d{q}-{d}" for d in order)
    return Ranking(f"q{q}", docids, {docid: -float(rank) for rank, docid in enumerate(docids)})


def _rerank(folder: Path, rankings: list[Ranking], num_prompts: int, num_malformed: int) -> None:
    write_run(folder / "run.trec", rankings, folder.name)
    summary = {
        "label": folder.name,
        "model": folder.name,
        "split": "test",
        "num_queries": len(rankings),
        "num_prompts": num_prompts,
        "num_malformed": num_malformed,
        "num_fallbacks": num_malformed // 2,
        "num_documents": 4 * len(rankings),
        "cost": {
            "calls": num_prompts,
            "rounds": min(num_prompts, 1),
            "prompt_tokens": 100 * num_prompts,
            "completion_tokens": 5 * num_prompts,
            "seconds": 0.5 * num_prompts,
        },
    }
    write_json(folder / "summary.json", summary)
    made_under = Protocol(split="test", depth=4, data="d" * 64, first_stage="f" * 64, dataset="s" * 64)
    if num_prompts:
        asking = {"paradigm": "pointwise", "template": "e" * 64, "max_prompt_tokens": 512, "long_documents": "head"}
        made_under = replace(made_under, **asking)
    protocol.write(folder, made_under)


def _answers(folder: Path, well_formed: int) -> None:
    found = {"prompts": 10, "well_formed": well_formed, "statuses": {"ok": well_formed, "tags": 10 - well_formed}}
    write_json(folder / "format.json", {"listwise": {**found, "samples": [f"[3] > [1] {HOSTILE}"]}})
    rows = [
        {
            "qid": "q0",
            "docids": ["d0-0"],
            "text": HOSTILE,
            "status": "tags",
            "issues": [{"kind": "no_answer", "place": HOSTILE}],
            "continuations": None,
            "prompt": [["user", [0, 1]]],
        },
        {
            "qid": "q1",
            "docids": ["d1-0"],
            "text": "",
            "status": "ok",
            "issues": [],
            "continuations": {"yes": -0.1},
            "prompt": [["user", [0, 2]]],
        },
    ]
    write_jsonl(folder / "rollouts.jsonl", rows)
    write_jsonl(folder / "texts.jsonl", ["Is it relevant? ", HOSTILE, "Text 0 of query 1."])


def _training(folder: Path, slope: float) -> None:
    wobble = (0.0, 0.01, -0.01)
    rewards = [0.4 + slope * step + wobble[step % 3] for step in range(12)]
    steady = {"loss": 0.1, "grad_norm": 1.0, "completions/mean_length": 20.0, "well_formed": 1.0, "kl": 0.0}
    rows = [
        {"step": i + 1, "reward": r, "reward/ndcg": r, "reward/format": 1.0, **steady} for i, r in enumerate(rewards)
    ]
    write_jsonl(folder / "metrics.jsonl", rows)
    completions = [
        {
            "step": i + 1,
            "qid": "q0-g5",
            "query": f"made of q0 {HOSTILE}",
            "docids": ["d0-0", "d0-1"],
            "completion": f"{HOSTILE} {i}",
            "status": "ok",
            "rewards": {"ndcg": r},
            "reward": r,
            "advantage": 0.0,
        }
        for i, r in enumerate(rewards)
    ]
    write_jsonl(folder / "completions.jsonl", completions)


def _experiment(folder: Path, count: int = NUM_QUERIES) -> Config:
    _collection(folder / "collection", count)
    run_dir = folder / "run"
    every = range(count)
    _rerank(run_dir / "first", [_ranking(q, (0, 1, 2, 3)) for q in every], 0, 0)
    _rerank(run_dir / "untrained", [_ranking(q, (3, 0, 1, 2)) for q in every], 40, 10)
    # It has nothing to say on the last query of eight.
    _rerank(run_dir / "trained", [_ranking(q, (2, 0, 1, 3)) for q in every if q % 8 < 7], 40, 1)
    write_json(run_dir / "first" / "format.json", {})
    _answers(run_dir / "untrained", 2)
    _answers(run_dir / "trained", 9)
    _training(run_dir / "grpo", 0.03)
    _training(run_dir / "control", 0.0)
    stages = {
        "grpo": {"kind": "grpo", "micro_batch": 8},
        "control": {"kind": "grpo", "micro_batch": 8, "permute_rewards": True},
        "first": {"kind": "rerank", "model": "first_stage", "label": "BM25"},
        "untrained": {"kind": "rerank", "label": HOSTILE},
        "trained": {"kind": "rerank", "model": "grpo", "label": "trained | GRPO"},
        "evaluate": {"kind": "evaluate", "comparisons": [["trained", "first"], ["untrained", "first"]]},
        "report": {"kind": "report"},
    }
    data = {"source": "collection", "path": str(folder / "collection"), "depth": 4}
    return build(Config, {"run_dir": str(run_dir), "experiment": HOSTILE, "data": data, "stages": stages})


@pytest.fixture
def experiment(tmp_path: Path) -> Config:
    """The configuration of an experiment whose rerank and training stages have run."""
    return _experiment(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The same experiment with its evaluate and report stages run; only to be read."""
    config = _experiment(tmp_path_factory.mktemp("finished"))
    for name, module in (("evaluate", evaluate_stage), ("report", report_stage)):
        module.run(config, name, config.stages[name])
    return config


@pytest.fixture
def large_experiment(tmp_path: Path) -> Config:
    """`experiment` with the queries of the larger one."""
    return _experiment(tmp_path, ENOUGH)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """`finished` with the queries of the larger one."""
    config = _experiment(tmp_path_factory.mktemp("large"), ENOUGH)
    for name, module in (("evaluate", evaluate_stage), ("report", report_stage)):
        module.run(config, name, config.stages[name])
    return config


@pytest.fixture(scope="session")
def metrics(finished: Config) -> dict:
    """What the evaluate stage writes."""
    return json.loads((Path(finished.run_dir) / "evaluate" / "metrics.json").read_text())
