# ruff: noqa: T201 (a script whose output is its table)
"""What the driver and the engines save in a ranking, as ratios of two ways to the same end, measured in turn.

    python benchmarks/rerank.py [FOLDER] [--queries 8] [--repeats 5] [--model smollm2] [--only hf vllm prefixes]

FOLDER is a collection's; without one the embedded data are used. Candidates are the first stage's top 10, passages are
cut to 64 tokens. Both ways are run once unmeasured and then in turn; the ratio is that of their medians, and above 1
where the second way is faster. Where both must give the same rankings, that is checked.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_rerank import registry
from rl_rerank.config import DataConfig, EngineConfig, ModelConfig
from rl_rerank.data import prepare
from rl_rerank.engines.base import Engine
from rl_rerank.engines.build import build_engine
from rl_rerank.engines.local.checkpoint import base_model_dir
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Ranking, RankingExample

DEPTH, PASSAGE_TOKENS = 10, 64
PARTS = ("hf", "vllm", "prefixes")
Way = Callable[[], list[Ranking]]


@dataclass(frozen=True)
class Comparison:
    name: str
    plain: Way
    better: Way
    same: bool = True
    """Whether both have to give the same rankings."""


def together(engine: Engine, examples: Sequence[RankingExample], name: str, **params: Any) -> Way:
    """All queries in one call of the driver."""
    paradigm: Any = registry.build("paradigm", name, params)
    return lambda: rerank(examples, paradigm, engine)[0]


def one_at_a_time(engine: Engine, examples: Sequence[RankingExample], name: str, **params: Any) -> Way:
    """Query after query."""
    paradigm: Any = registry.build("paradigm", name, params)
    return lambda: [ranking for example in examples for ranking in rerank([example], paradigm, engine)[0]]


def across_queries(kind: str, engine: Engine, examples: Sequence[RankingExample]) -> list[Comparison]:
    """Prompts of all queries in one round against those of one query after another."""
    rows: list[tuple[str, dict[str, Any]]] = [("pointwise", {}), ("setwise", {"k": 3}), ("listwise", {})]
    return [
        Comparison(
            f"{kind}, {name}: queries one at a time / all in a round",
            one_at_a_time(engine, examples, name, **params),
            together(engine, examples, name, **params),
        )
        for name, params in rows
    ]


def first_token(kind: str, engine: Engine, examples: Sequence[RankingExample]) -> Comparison:
    """One forward a window against a written permutation."""
    return Comparison(
        f"{kind}: listwise generation (constrained to a permutation) / first token",
        together(engine, examples, "listwise", constrained=True),
        together(engine, examples, "first_token"),
        same=False,
    )


def prefixes(without: Engine, caching: Engine, examples: Sequence[RankingExample]) -> list[Comparison]:
    """vLLM without and with prefix caching. Caches are emptied before every run: what is saved is saved within one."""

    def fresh(engine: Any, way: Way) -> Way:
        def run() -> list[Ranking]:
            engine.llm.reset_prefix_cache()
            return way()

        return run

    rows: list[tuple[str, dict[str, Any]]] = [
        ("pointwise", {}),
        ("pairwise", {"mode": "scoring", "method": "sliding", "k": 2}),
    ]
    return [
        Comparison(
            f"vllm, {name}: no prefix caching / prefix caching",
            fresh(without, together(without, examples, name, **params)),
            fresh(caching, together(caching, examples, name, **params)),
        )
        for name, params in rows
    ]


def measure(comparison: Comparison, repeats: int) -> str:
    """One line of the table."""
    first, second = comparison.plain(), comparison.better()
    if comparison.same and [r.docids for r in first] != [r.docids for r in second]:
        different = sum(a.docids != b.docids for a, b in zip(first, second, strict=True))
        print(f"{comparison.name}: {different} of {len(first)} queries have another order")
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for times, way in zip(seconds, (comparison.plain, comparison.better), strict=True):
            started = time.perf_counter()
            way()
            times.append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    ratio = statistics.median(seconds[0]) / statistics.median(seconds[1])
    return f"| {comparison.name} | {ratio:.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="a collection's; pydocs without one")
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    source = "collection" if given.folder else "pydocs"
    counts = {"train_queries": 1, "dev_queries": 1, "test_queries": given.queries}
    data = DataConfig(source=source, path=given.folder, depth=DEPTH, **counts)
    model = ModelConfig(path=given.model, max_passage_tokens=PASSAGE_TOKENS)
    path = base_model_dir(model)
    with tempfile.TemporaryDirectory() as folder:
        examples = prepare(data, Path(folder) / "data").examples("test")
    print(f"{len(examples)} queries, {given.repeats} repeats\n")
    print("| compared | ratio of medians | single repeats |\n| --- | ---: | --- |")

    def engine(kind: str, **args: Any) -> Engine:
        return build_engine(EngineConfig(kind=kind, args=args), model, path)

    for kind in (kind for kind in ("hf", "vllm") if kind in given.only):
        with closing(engine(kind)) as built:
            for comparison in [*across_queries(kind, built, examples), first_token(kind, built, examples)]:
                print(measure(comparison, given.repeats), flush=True)
    if "prefixes" in given.only:
        with closing(engine("vllm", enable_prefix_caching=False)) as without, closing(engine("vllm")) as caching:
            for comparison in prefixes(without, caching, examples):
                print(measure(comparison, given.repeats), flush=True)


if __name__ == "__main__":
    main()
