"""Export, and ranking with an exported model."""

from rl_rerank.serving.reranker import Reranker
