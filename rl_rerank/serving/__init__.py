"""Export, ranking with an exported model, and asking a server that has one."""

from rl_rerank.serving.client import Client
from rl_rerank.serving.reranker import Reranker
