"""Synthesised rows as token ids and labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from rl_rerank.data.examples import ExampleFile
from rl_rerank.paradigms.base import Paradigm, check_template
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.prompts.thoughts import READ, is_opened
from rl_rerank.training.loop.rank_weights import rank_weights

IGNORED = -100
"""Label of tokens without a loss."""


def tokenised(
    rows: Sequence[Mapping[str, Any]],
    examples: ExampleFile,
    paradigms: Mapping[str, Paradigm],
    renderer: Renderer,
    *,
    separator: float | None = None,
) -> Dataset:
    """Tokenise rows into `input_ids` and `labels`; only the answer and its end token have a loss.

    The end token is labelled by position, never by id: in some tokenizers padding and the end token are the same.

    Args:
        separator: adds `weights` by `rank_weights`, with this weight for separators.

    Answers that open reasoning lose this tag where the chat template has already opened it.

    Raises:
        ValueError: if the chat template does not fit a paradigm, as `check_template` says.
    """
    for paradigm in paradigms.values():
        check_template(paradigm, renderer)
    input_ids, labels, weights = [], [], []
    for row in rows:
        prompt = paradigms[row["paradigm"]].prompt(examples.example(row["qid"]), row["docids"])
        rendered = renderer(prompt)
        target = row["target"]
        if is_opened(rendered.text):
            target = target.removeprefix(READ)
        question = rendered.token_ids
        answer = [*renderer.continuation_ids(target), renderer.end_id]
        input_ids.append([*question, *answer])
        labels.append([IGNORED] * len(question) + answer)
        if separator is not None:
            own = rank_weights(target, renderer.tokenizer, separator)
            weights.append([*[1.0] * len(question), *own, 1.0])
    columns = {"input_ids": input_ids, "labels": labels}
    return Dataset.from_dict(columns if separator is None else {**columns, "weights": weights})
