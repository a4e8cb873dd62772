# ruff: noqa: T201 (a script whose output is its table)
"""What every paradigm asks, what a ranking costs with it, and what it loses: writes docs/paradigms.md.

    python benchmarks/paradigms.py [FILE]

A noisy oracle answers instead of a model: it takes about a minute and needs no torch.
"""

from __future__ import annotations

import logging
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rl_rerank import registry
from rl_rerank.config import DataConfig
from rl_rerank.data import prepare
from rl_rerank.data.prepare import build_source
from rl_rerank.engines.oracle import Oracle
from rl_rerank.metrics import ndcg
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, Prompt, RankingExample

FILE = Path(__file__).parent.parent / "docs/paradigms.md"
DATA = DataConfig(source="pydocs", depth=20, train_queries=1, dev_queries=50, test_queries=1)
NOISE = 0.5
CUT = 100
"""Words of a document that are counted."""
LONG, LISTS = 100, 5
"""Documents of each longer list, and how many lists there are."""


@dataclass(frozen=True)
class Row:
    """A paradigm with parameters, and how many prompts it asks about a list."""

    paradigm: str
    params: Mapping[str, Any]
    formula: str
    calls: Callable[[int], int] | None = None
    """N -> prompts, where that depends on nothing else. Measured counts are held against it."""

    @property
    def title(self) -> str:
        """As on a command line."""
        return " ".join([self.paradigm, *(f"{name}={value}" for name, value in self.params.items())])


def windows(window: int, stride: int) -> Callable[[int], int]:
    """Windows of a list: one, and one more a step over what it leaves out."""
    return lambda n: 1 + max(0, -(-(n - window) // stride))


ROWS = (
    Row("pointwise", {}, "N", lambda n: n),
    Row("pointwise_graded", {}, "N", lambda n: n),
    Row("groupwise", {"size": 5}, "ceil(N / size)", lambda n: -(-n // 5)),
    Row("groupwise", {"size": 5, "repeats": 3}, "repeats ceil(N / size)", lambda n: 3 * -(-n // 5)),
    Row("listwise", {"window": 20}, "1 + ceil((N - window) / stride)", windows(20, 10)),
    Row("listwise", {"window": 10}, "1 + ceil((N - window) / stride)", windows(10, 5)),
    Row("first_token", {"window": 20}, "passes (1 + ceil((N - window) / stride))", windows(20, 10)),
    Row("first_token", {"window": 10}, "passes (1 + ceil((N - window) / stride))", windows(10, 5)),
    Row("setwise", {"children": 3}, "about (N - 1) / c + k log_c N"),
    Row("setwise", {"children": 9, "labels": "numbers", "reasoning": True}, "about (N - 1) / c + k log_c N"),
    Row("setwise", {"method": "bubblesort", "children": 3}, "at most the sum over p < k of ceil((N - 1 - p) / c)"),
    Row("setwise", {"children": 3, "permutations": 3}, "the same, times permutations"),
    Row("pairwise", {"method": "allpairs"}, "N (N - 1)", lambda n: n * (n - 1)),
    Row("pairwise", {"mode": "scoring", "aggregation": "sym_sum"}, "N (N - 1)", lambda n: n * (n - 1)),
    Row("pairwise", {"method": "heapsort"}, "at most 4 (N + (k - 1) floor(log2 N))"),
    Row(
        "pairwise",
        {"method": "sliding"},
        "2 times the sum over p < k of N - 1 - p",
        lambda n: 2 * sum(n - 1 - p for p in range(10)),
    ),
)


@dataclass(frozen=True)
class Cost:
    """Of one query."""

    calls: int
    rounds: int
    words: int
    docids: tuple[str, ...]


def costs(row: Row, examples: Sequence[RankingExample], *, fresh: bool = False) -> list[Cost]:
    """Rank every query by itself; refuse a count that is not the formula's."""
    paradigm = registry.build("paradigm", row.paradigm, row.params)
    found = []
    for example in examples:
        engine = Oracle([example], paradigm.target, noise=NOISE, fresh=fresh)
        [ranking], rollouts = rerank([example], paradigm, engine)
        n = len(example.docids)
        if row.calls is not None and ranking.num_prompts != row.calls(n):
            raise ValueError(f"{row.title}: {ranking.num_prompts} prompts for {n} documents, not {row.calls(n)}")
        words = sum(num_words(rollout.prompt) for rollout in rollouts)
        found.append(Cost(ranking.num_prompts, len(engine.batch_sizes), words, ranking.docids))
    return found


def num_words(prompt: Prompt) -> int:
    """Words of a prompt, with at most CUT of each document."""
    theirs: Counter[str] = Counter()
    ours = 0
    for segment in (segment for message in prompt.messages for segment in message.segments):
        if segment.docid is None:
            ours += len(segment.text.split())
        else:
            theirs[segment.docid] += count(segment.text)
    return ours + sum(min(words, CUT) for words in theirs.values())


@cache
def count(text: str) -> int:
    """Words of a document, which stands in many prompts."""
    return len(text.split())


def long_lists() -> list[RankingExample]:
    """Queries with LONG documents of grades 0 to 3 in random order."""
    examples = []
    for seed in range(LISTS):
        rng = random.Random(seed)
        grades = {f"d{i}": rng.choice((0, 0, 0, 0, 0, 0, 1, 1, 2, 3)) for i in range(LONG)}
        examples.append(RankingExample(f"q{seed}", "query", tuple(Candidate(d, d) for d in grades), grades))
    return examples


def table(examples: Sequence[RankingExample], qrels: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One line a row, the first stage first."""
    longer = long_lists()
    first_stage = value([e.docids for e in examples], examples, qrels)
    lines = [
        f"| paradigm | calls | rounds | words | nDCG@10, one error | nDCG@10, fresh errors "
        f"| calls at N = {LONG} | calls by formula |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        f"| BM25 (first stage) | 0 | 0 | 0 | {first_stage} | {first_stage} | 0 | |",
    ]
    for row in ROWS:
        found = costs(row, examples)
        cells = [
            f"`{row.title}`",
            mean([cost.calls for cost in found]),
            mean([cost.rounds for cost in found]),
            mean([cost.words for cost in found], digits=0),
            value([cost.docids for cost in found], examples, qrels),
            value([cost.docids for cost in costs(row, examples, fresh=True)], examples, qrels),
            mean([cost.calls for cost in costs(row, longer[:1] if row.calls else longer)]),
            row.formula,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def value(
    rankings: Sequence[Sequence[str]], examples: Sequence[RankingExample], qrels: Mapping[str, Mapping[str, int]]
) -> str:
    """Mean nDCG@10."""
    return f"{statistics.mean(ndcg(d, qrels[e.qid], k=10) for d, e in zip(rankings, examples, strict=True)):.3f}"


def mean(values: Sequence[int], digits: int = 1) -> str:
    """Without a decimal where it is whole."""
    return f"{statistics.mean(values):,.{digits}f}".removesuffix(".0")


def prompts() -> list[str]:
    """The description of every paradigm: the docstring of its module."""
    lines: list[str] = []
    for name in dict.fromkeys(row.paradigm for row in ROWS):
        module = sys.modules[registry.find("paradigm", name).__module__]
        assert module.__doc__ is not None
        lines += ["", f"### {name}", "", module.__doc__.strip()]
    return lines


def main() -> None:
    # A pipeline costs what its stages do.
    if missing := set(registry.names("paradigm")) - {row.paradigm for row in ROWS} - {"pipeline"}:
        raise LookupError(f"the paradigms {', '.join(sorted(missing))} have no row here: add one to ROWS")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(DATA, Path(folder) / "data")
        examples, qrels = store.examples("dev"), store.qrels("dev")
    page = [
        "# Paradigms",
        "",
        "Written by `python benchmarks/paradigms.py`. `paradigm=NAME` chooses a paradigm, "
        "`paradigms.NAME.params.PARAMETER=VALUE`",
        "sets its parameters. The words below are wordings, which a setting exchanges: "
        "[wordings.md](wordings.md). In strict mode,",
        "which rewards use, an answer has the form that is shown. In lenient mode, which ranks, other plain "
        "forms are read too",
        "(`2 > 1`, `Passage 2 > Passage 1`, `[2, 1]`, `Score (0-10): 7`, `8 (because ...)`, JSON of another "
        "shape, an answer behind",
        "`</think>` without tags) and count as malformed; a number is read whole or not at all, and an order "
        "written worst first",
        "(`<`), or a score on another scale, is not read.",
        "",
        "## Cost",
        "",
        f"{len(examples)} queries of `pydocs` ({build_source(DATA).state()}) with N = {DATA.depth} documents each, "
        "answered by an oracle. The oracle sees",
        f"the documents' grades with Gaussian errors of standard deviation {NOISE}. "
        "With one error for each document it never",
        "contradicts itself, and paradigms differ only where windows settle fewer than ten ranks, "
        "or where scores are rounded.",
        "Fresh errors, drawn for every prompt, show how well a paradigm averages them out. "
        "A model errs differently: more in long",
        f"lists than in pairs, and not at random. {len(examples)} queries show large differences only.",
        "",
        "Calls are prompts. Rounds are sequential: each waits for the answers of the one before. "
        "Words are those of all prompts,",
        f"with each document cut to {CUT}. All are means over queries. "
        f"The calls at N = {LONG} are means over {LISTS} lists in random order.",
        "Where the formula is exact, every count was checked against it. k is 10 and c is `children`.",
        "",
        *table(examples, qrels),
        "",
        "## Prompts and answers",
        *prompts(),
    ]
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    path.write_text("\n".join(page) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
