"""Synthesised rows as token ids and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from rl_rerank.data.examples import ExampleFile
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.rendering import Renderer

IGNORED = -100
"""The label of a token that is not learned."""


def tokenised(
    rows: Sequence[Mapping[str, Any]], examples: ExampleFile, paradigms: Mapping[str, Paradigm], renderer: Renderer
) -> Dataset:
    """One `input_ids` and `labels` a row: only the answer and its end token are learned.

    The end token is labelled by position, never by id: in some tokenizers padding and the end token are the same.

    Raises:
        ValueError: if answers open the reasoning that the chat template has opened.
    """
    input_ids, labels = [], []
    for row in rows:
        prompt = paradigms[row["paradigm"]].prompt(examples.example(row["qid"]), row["docids"])
        rendered = renderer(prompt)
        if rendered.text.rstrip().endswith("<think>") and row["target"].startswith("<think>"):
            raise ValueError(
                f"the chat template ends a prompt with <think>, and the {row['paradigm']} answers begin with another; "
                f"synthesise them with paradigms.{row['paradigm']}.params.think_open=true"
            )
        question = rendered.token_ids
        answer = [*renderer.continuation_ids(row["target"]), renderer.end_id]
        input_ids.append([*question, *answer])
        labels.append([IGNORED] * len(question) + answer)
    return Dataset.from_dict({"input_ids": input_ids, "labels": labels})
