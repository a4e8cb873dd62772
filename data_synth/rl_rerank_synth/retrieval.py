"""What the steps that search the corpus have in common: from a list of documents to candidates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rl_rerank.data.records import Document
from rl_rerank.types import Candidate, RankingExample


def with_candidates(
    example: RankingExample,
    found: Sequence[tuple[str, float | None]],
    documents: Mapping[str, Document],
    name: str,
    *,
    add: bool,
    relevant: bool,
) -> RankingExample:
    """The example with the documents that were found, best first, as candidates.

    Each has its score among its features, under the step's name.

    Args:
        add: candidates that the example has stay, and what is new comes behind them.
        relevant: judged relevant documents that were not found come last, without a rank.
    """
    score = dict(found)
    old = {c.docid: c for c in example.candidates}
    wanted = list(score)
    if relevant:
        missed = [d for d, grade in example.qrels.items() if grade > 0 and d in documents and d not in score]
        wanted += sorted(missed)
    candidates: dict[str, Candidate] = dict(old) if add else {}
    for rank, docid in enumerate(wanted, start=1):
        features = {f"{name}_score": value} if (value := score.get(docid)) is not None else {}
        if docid in old:
            candidate = old[docid]
        else:
            document = documents[docid]
            candidate = Candidate(docid, document.text, document.title, document.images)
        if not add:
            candidate = replace(candidate, rank=rank if docid in score else None, score=score.get(docid))
        candidates[docid] = replace(candidate, features={**candidate.features, **features})
    provenance = {**example.provenance, name: f"{len(found)} documents found"}
    return replace(example, candidates=tuple(candidates.values()), provenance=provenance)
