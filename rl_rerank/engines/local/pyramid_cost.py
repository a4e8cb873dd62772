"""What a window of documents costs a pyramid and the model that it came from: operations counted, time measured.

Operations are those of the linear maps of layers, 2 a weight and token, those of attention, 4 a pair of tokens and
dimension, and those of the output head. Both models compute what prompts share once. The states of documents are known
beforehand, as those of an index are; the query's messages are new.
"""

# Shape legend: T tokens, M labels.

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rl_rerank.engines.local import pyramid
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.engines.local.pyramid_scorer import Message, PyramidScorer
from rl_rerank.packed.layout import Labelled, pack
from rl_rerank.types import Prompt


@dataclass(frozen=True)
class Cost:
    """Of one window."""

    operations: float
    seconds: float
    """On a CPU those of all cores together, so that other programs do not count."""


def costs(full: HFEngine, student: HFEngine, prompts: Sequence[Prompt], answers: Sequence[str]) -> tuple[Cost, Cost]:
    """Measure the cost of scoring answers to the prompts of one window.

    Args:
        student: an engine of a pyramid; the states that it keeps are dropped.

    Raises:
        ValueError: if the window has one document only, or the student's prompts are computed without kept states.
    """
    scorer = student.scorer
    assert isinstance(scorer, PyramidScorer)
    rows = [student.render(prompt) for prompt in prompts]
    messages = [pyramid.split(row, scorer.boundary) for row in rows]
    if len(rows) < 2:
        raise ValueError("a window of one document does not tell the document's message from the query's")
    queries = list(dict.fromkeys(message for some in messages for message in some if _in_all(message, messages)))
    documents = {message for some in messages for message in some} - set(queries)
    sequences = [([*row, *student.renderer.continuation_ids(text)], len(row)) for row in rows for text in answers]
    seconds = _seconds(lambda: full.score(prompts, answers))
    scorer.forget()
    with torch.no_grad():
        scorer.encode(documents)
    own = _seconds(lambda: student.score(prompts, answers))
    if scorer.refusal is not None:
        raise ValueError(f"the pyramid's prompts are computed without kept states: {scorer.refusal}")
    lower, layers = scorer.lower_layers, student.model.config.get_text_config().num_hidden_layers
    layer = _Layer(student.model)
    # What follows the last boundary also has the answers' tokens but their last ones.
    new = [((*message, 0), len(message)) for message in queries]
    head = layer.head * len(pack(sequences).labels)
    whole = layer.of(sequences)
    return Cost(layers * whole + head, seconds), Cost(lower * layer.of(new) + (layers - lower) * whole + head, own)


def _in_all(message: Message, messages: Sequence[Sequence[Message]]) -> bool:
    return all(message in some for some in messages)


class _Layer:
    """Operations of one layer of a model, and of its head for one label."""

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        first: nn.Module = model.base_model.layers[0]
        self.weights = sum(weight.numel() for weight in first.parameters() if weight.dim() == 2)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.dimensions = width * config.num_attention_heads
        self.head = 2 * model.get_output_embeddings().weight.numel()

    def of(self, sequences: Sequence[Labelled]) -> float:
        """Count those of a packed row of sequences, in which each token sees itself and those before it."""
        positions = pack(sequences).layout.positions
        return 2 * self.weights * len(positions) + 4 * self.dimensions * float((positions + 1).sum())


def _seconds(work: Any) -> float:
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    work()  # its scores are on the CPU, so a GPU has finished
    return clock() - start
