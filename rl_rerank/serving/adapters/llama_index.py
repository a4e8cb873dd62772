"""A node postprocessor of LlamaIndex: `pip install llama-index-core`."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field  # pyright: ignore[reportMissingImports]
from llama_index.core.postprocessor.types import BaseNodePostprocessor  # pyright: ignore[reportMissingImports]
from llama_index.core.schema import NodeWithScore, QueryBundle  # pyright: ignore[reportMissingImports]

from rl_rerank.serving.ranks import document, ranked


class RerankerPostprocessor(BaseNodePostprocessor):
    """Orders retrieved nodes and keeps the best.

    RerankerPostprocessor(ranker=Reranker.load(folder), top_n=3).postprocess_nodes(nodes, query_str=query)
    """

    ranker: Any = Field(description="A Reranker or a Client.", exclude=True)
    top_n: int | None = Field(default=None, description="Number of nodes to keep; None: all.")
    instruction: str = Field(default="", description="The definition of relevance, where the query does not give it.")

    @classmethod
    def class_name(cls) -> str:
        return "RerankerPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("RerankerPostprocessor needs the query: give query_bundle or query_str")
        shown = [document(each.node.get_content(), each.node.metadata) for each in nodes]
        found = ranked(self.ranker, query_bundle.query_str, shown, self.top_n, self.instruction)
        return [NodeWithScore(node=nodes[index].node, score=score) for index, score in found]
