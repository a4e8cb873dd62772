"""Reinforcement-learning post-training of LLM rerankers."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_rerank.serving.reranker import Reranker

__version__ = "0.1.0"
__all__ = ["Reranker", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Reranker` when it is asked for: most of the package does without what it needs."""
    if name == "Reranker":
        return importlib.import_module("rl_rerank.serving.reranker").Reranker
    raise AttributeError(f"module 'rl_rerank' has no attribute {name!r}")
