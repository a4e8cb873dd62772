"""A small finished experiment on disk: a collection, four rerank stages, two trainings, all with hostile texts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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


def _collection(folder: Path, count: int, texts: Sequence[str]) -> None:
    corpus = [
        {
            "docid": f"d{q}-{d}",
            "title": f"Title {d} <img src=x onerror=alert(1)>{_of(texts, q)}",
            "text": f"Text {d} of query {q}. </td></table>{_of(texts, q)}",
        }
        for q in range(count)
        for d in range(4)
    ]
    queries = [{"qid": f"q{q}", "text": f"query {q}{_of(texts, q)}", "split": "test"} for q in range(count)]
    write_jsonl(folder / "corpus.jsonl", corpus)
    write_jsonl(folder / "queries.jsonl", queries)
    # The third candidate is the relevant one.
    lines = [f"q{q} 0 d{q}-{d} {int(d == 2)}\n" for q in range(count) for d in range(4)]
    write_text(folder / "qrels.tsv", "".join(lines))
    write_run(folder / "run.bm25.trec", [_ranking(q, (0, 1, 2, 3)) for q in range(count)], "bm25")


def _of(texts: Sequence[str], q: int) -> str:
    return f" {texts[q]}" if q < len(texts) else ""


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


def _answers(folder: Path, well_formed: int, texts: Sequence[str]) -> None:
    found = {"prompts": 10, "well_formed": well_formed, "statuses": {"ok": well_formed, "tags": 10 - well_formed}}
    write_json(folder / "format.json", {"listwise": {**found, "samples": [f"[3] > [1] {text}" for text in texts]}})
    rows = [
        {
            "qid": f"q{q}",
            "docids": [f"d{q}-0"],
            "text": text,
            "status": "tags",
            "issues": [{"kind": "no_answer", "place": text}],
            "continuations": None,
            "prompt": [["user", [0, 2 + q]]],
        }
        for q, text in enumerate(texts)
    ]
    scored = {
        "qid": f"q{len(texts)}",
        "docids": [f"d{len(texts)}-0"],
        "text": "",
        "status": "ok",
        "issues": [],
        "continuations": {"yes": -0.1},
        "prompt": [["user", [0, 1]]],
    }
    write_jsonl(folder / "rollouts.jsonl", [*rows, scored])
    write_jsonl(folder / "texts.jsonl", ["Is it relevant? ", "Text 0 of a query.", *texts])


def _training(folder: Path, slope: float, texts: Sequence[str]) -> None:
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
            "query": f"made of q0{_of(texts, i % len(texts))}",
            "docids": ["d0-0", "d0-1"],
            "completion": f"{texts[i % len(texts)]} {i}",
            "status": "ok",
            "rewards": {"ndcg": r},
            "reward": r,
            "advantage": 0.0,
        }
        for i, r in enumerate(rewards)
    ]
    write_jsonl(folder / "completions.jsonl", completions)


def experiment(folder: Path, count: int = NUM_QUERIES, texts: Sequence[str] = (HOSTILE,)) -> Config:
    """Write the experiment; its rerank and training stages have run.

    Args:
        texts: what the first queries, their documents and completions say, one each; names say all of it.
    """
    names = " ".join(texts)
    _collection(folder / "collection", count, texts)
    run_dir = folder / "run"
    every = range(count)
    _rerank(run_dir / "first", [_ranking(q, (0, 1, 2, 3)) for q in every], 0, 0)
    _rerank(run_dir / "untrained", [_ranking(q, (3, 0, 1, 2)) for q in every], 40, 10)
    # It has nothing to say on the last query of eight.
    _rerank(run_dir / "trained", [_ranking(q, (2, 0, 1, 3)) for q in every if q % 8 < 7], 40, 1)
    write_json(run_dir / "first" / "format.json", {})
    _answers(run_dir / "untrained", 2, texts)
    _answers(run_dir / "trained", 9, texts)
    _training(run_dir / "grpo", 0.03, texts)
    _training(run_dir / "control", 0.0, texts)
    stages = {
        "grpo": {"kind": "grpo", "micro_batch": 8},
        "control": {"kind": "grpo", "micro_batch": 8, "permute_rewards": True},
        "first": {"kind": "rerank", "model": "first_stage", "label": "BM25"},
        "untrained": {"kind": "rerank", "label": names},
        "trained": {"kind": "rerank", "model": "grpo", "label": "trained | GRPO"},
        "evaluate": {"kind": "evaluate", "comparisons": [["trained", "first"], ["untrained", "first"]]},
        "report": {"kind": "report"},
    }
    data = {"source": "collection", "path": str(folder / "collection"), "depth": 4}
    return build(Config, {"run_dir": str(run_dir), "experiment": names, "data": data, "stages": stages})


def report(config: Config) -> Config:
    """Run its evaluate and report stages."""
    for name, module in (("evaluate", evaluate_stage), ("report", report_stage)):
        module.run(config, name, config.stages[name])
    return config
