"""How vLLM's server is started so that its `/score` gives an exported model's scores. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Sequence

SCORE_TEMPLATE = "score_template.jinja"
"""The chat template of pairs for a program that adds the tokenizer's special tokens to what it renders."""


def score_arguments(folder: str, tokens: Sequence[str]) -> list[str]:
    """Arguments with which vLLM makes a classifier of a causal model, and asks as the model was trained.

    Args:
        tokens: the two answers as they stand in the vocabulary, the positive one first.
    """
    positive, negative = tokens
    head = {"classifier_from_token": [negative, positive], "method": "from_2_way_softmax"}
    return [
        *("--runner", "pooling", "--convert", "classify", "--hf-overrides", json.dumps(head)),
        *("--chat-template", f"{folder}/{SCORE_TEMPLATE}"),
    ]
