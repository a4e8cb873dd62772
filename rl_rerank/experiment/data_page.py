"""The data of an experiment before anything is trained: `rl-rerank data`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from rl_rerank.config import Config
from rl_rerank.data import Store
from rl_rerank.data.overview import doubts, overview, table
from rl_rerank.experiment import preflight
from rl_rerank.prompts.sanitize import Sanitizer
from rl_rerank.training.loop.lengths import percentile_95

SAMPLE = 500
"""Documents of a split whose tokens are counted."""


def head(store: Store) -> list[str]:
    """Format the splits as a table, and say in sentences what was left out and what is doubtful."""
    splits = overview(store)
    return [*table(splits), *store.warnings, *doubts(splits)]


def lines(config: Config) -> Iterator[str]:
    """Describe the data, and the lengths of documents against the model's budget where its tokenizer is here."""
    with preflight.opened(config) as store:
        yield from head(store)
        try:
            tokenizer, is_estimate = preflight.tokenizer(config.model)
        except ImportError as e:
            yield f"the lengths of documents are not known: {e}"
            return
        unit = "tokens of SmolLM2, since the model's tokenizer is not here" if is_estimate else "tokens"
        for split in store.splits:
            yield _lengths(split, list(_documents(store, split)), tokenizer, config, unit)


def _documents(store: Store, split: str) -> Iterator[str]:
    seen = {c.docid: c for example in islice(store.examples(split), SAMPLE) for c in example.candidates}
    for candidate in islice(seen.values(), SAMPLE):
        yield f"{candidate.title} {candidate.text}".strip()


def _lengths(split: str, documents: Iterable[str], tokenizer: Any, config: Config, unit: str) -> str:
    sanitize = Sanitizer(tokenizer, cached_characters=0)
    counts = sorted(len(tokenizer(sanitize(text), add_special_tokens=False)["input_ids"]) for text in documents)
    name = "max_prompt_tokens" if config.model.max_passage_tokens is None else "max_passage_tokens"
    budget = getattr(config.model, name)
    cut = [count for count in counts if count > budget]
    lost = sum(count - budget for count in cut) / sum(counts)
    return (
        f"{split}: {len(counts)} documents of median {statistics.median(counts):.0f}, p95 {percentile_95(counts)}, "
        f"max {counts[-1]} {unit}; model.{name}={budget} cuts {len(cut) / len(counts):.0%} of them, {lost:.0%} of the "
        "text"
    )
