"""A transformer of PyTerrier: `pip install python-terrier`."""

from __future__ import annotations

import pandas as pd
import pyterrier as pt  # pyright: ignore[reportMissingImports]

from rl_rerank.serving.ranks import Document, Ranks, ranked


class RerankerTransformer(pt.Transformer):  # pyright: ignore[reportAttributeAccessIssue]
    """Orders the results of an earlier transformer.

    retriever % 100 >> pt.text.get_text(dataset) >> RerankerTransformer(Reranker.load(folder))
    """

    def __init__(self, ranker: Ranks, text_field: str = "text", instruction: str = "") -> None:
        """
        Args:
            ranker: a `Reranker` or a `Client`.
            text_field: column with the texts of documents; a column `title` is shown too.
            instruction: definition of relevance, where the query does not give it.
        """
        super().__init__()
        self.ranker = ranker
        self.text_field = text_field
        self.instruction = instruction

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Return the rows in the new order with `score` and `rank`, which counts from 0; queries in theirs.

        Raises:
            ValueError: if a column is missing.
        """
        if missing := {"qid", "query", "docno", self.text_field} - set(inp.columns):
            raise ValueError(f"RerankerTransformer needs the columns {', '.join(sorted(missing))}; retrieve them first")
        ordered = [self._ordered(own) for _, own in inp.groupby("qid", sort=False)]
        return pd.concat(ordered, ignore_index=True) if ordered else inp.assign(score=[], rank=[])

    def _ordered(self, results: pd.DataFrame) -> pd.DataFrame:
        """One query's results; an earlier `rank` is their first-stage order, which a listwise model sees."""
        given = results.sort_values("rank", kind="stable") if "rank" in results.columns else results
        titles = given["title"].fillna("") if "title" in given.columns else [""] * len(given)
        documents: list[Document] = [
            {"text": text, "title": title} for text, title in zip(given[self.text_field], titles, strict=True)
        ]
        found = ranked(self.ranker, str(given["query"].iloc[0]), documents, None, self.instruction)
        order, scores = [index for index, _ in found], [score for _, score in found]
        return given.iloc[order].assign(score=scores, rank=range(len(order)))
