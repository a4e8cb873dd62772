"""Ranking documents with an exported model, in three lines of the caller's code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from rl_rerank.config import EngineConfig, ModelConfig, build
from rl_rerank.engines.base import Engine
from rl_rerank.engines.build import build_engine
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.ranking.driver import check_finite
from rl_rerank.requirements import load
from rl_rerank.serving import contract
from rl_rerank.serving.scores import scores
from rl_rerank.types import Candidate, RankingExample, Rollout

Document: TypeAlias = str | Mapping[str, Any]
"""A text, or a mapping with `text` and perhaps `title`; other keys are ignored."""


class Reranker:
    """Ranks documents the way the model was trained to.

    with Reranker.load("runs/quickstart/export/model") as reranker:
        best = reranker.rank("how to sort an array", documents, top_n=5)
    """

    def __init__(self, paradigm: Paradigm, engine: Engine, terms: contract.Contract) -> None:
        self.paradigm = paradigm
        self.engine = engine
        self.contract = terms
        self._is_closed = False

    def __enter__(self) -> Reranker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._is_closed else ""
        return f"Reranker({self.paradigm.name}, {type(self.engine).__name__}{state})"

    @classmethod
    def load(
        cls,
        path: str | Path,
        engine: str | EngineConfig = "hf",
        dtype: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        **engine_args: Any,
    ) -> Reranker:
        """Load an exported model.

        Args:
            path: a folder that `rl-rerank export` wrote, or the hub id of one.
            engine: hf or vllm; or an engine with its settings, instead of `engine_args`.
            dtype: float32, bfloat16 or float16; None takes that of the export.
            revision: a branch, tag or commit of the hub's repository; None takes main.
            engine_args: `batch_tokens` and `bf16` for hf; any argument of vllm.LLM for vllm.

        Raises:
            FileNotFoundError: if the folder is not an exported model.
            LookupError: if the hub does not provide it.
            ValueError: if its prompts differ from those at export.
        """
        settings = engine if isinstance(engine, EngineConfig) else _engine(engine, engine_args)
        checkpoint = load("rl_rerank.engines.local.checkpoint", f"engine={settings.kind}")
        source = ModelConfig(path=str(path), revision=revision, trust_remote_code=trust_remote_code)
        folder = checkpoint.base_model_dir(source)
        if revision is not None and folder == Path(path).expanduser():
            raise ValueError(
                f"{str(path)!r} is a folder here, and revision={revision!r} is for repositories of the hub"
            )
        terms = contract.read(folder)
        paradigm = terms.build_paradigm()
        named = {"path": str(folder), "dtype": dtype or terms.dtype, "trust_remote_code": trust_remote_code}
        budgets = {"max_prompt_tokens": terms.max_prompt_tokens, "max_passage_tokens": terms.max_passage_tokens}
        model = build(ModelConfig, {**named, **budgets, "template_kwargs": terms.template_kwargs})
        # Before the weights are read: a stale tokenizer is found in a moment.
        contract.check(terms, paradigm, checkpoint.renderer(model, folder), folder)
        return cls(paradigm, build_engine(settings, model, folder), terms)

    def rank(
        self, query: str, documents: Sequence[Document], top_n: int | None = None, instruction: str = ""
    ) -> list[tuple[int, float]]:
        """Order `documents` for `query`.

        Args:
            documents: in first-stage order, which a listwise model sees. Equal ones differ by index. Long ones are
                cut, summarised or split as the contract's `long_documents` says, and then cut to the token budget.
            top_n: number of best results to keep; None keeps all.
            instruction: definition of relevance, if the query does not give it.

        Returns:
            (index into `documents`, score) best first, equal scores in the given order. Scores are the model's own,
            which repeat for equal documents, or n, n - 1, ..., 1 where it answers with an order. They are comparable
            within one call only, unless the paradigm says otherwise. A document whose answer cannot be used takes its
            score from its neighbours in the given order. Empty documents come last, with the score -inf: the model
            does not see them.

        Raises:
            ValueError: for an empty query, a value of another type, or if no answer has finite log-probabilities; also
                after `close`.
        """
        _check_top_n(top_n)
        return self._rank([_example("0", query, documents, instruction)], top_n)[0]

    def rank_many(
        self,
        requests: Sequence[tuple[str, Sequence[Document]]],
        top_n: int | None = None,
        instruction: str = "",
    ) -> list[list[tuple[int, float]]]:
        """Rank many (query, documents) at once, which is faster than separate calls of `rank`.

        Raises:
            ValueError: as `rank`, with the number of the request.
        """
        _check_top_n(top_n)
        examples: list[RankingExample] = []
        for i, (query, documents) in enumerate(requests):
            try:
                examples.append(_example(str(i), query, documents, instruction))
            except ValueError as e:
                raise ValueError(f"request {i}: {e}") from None
        return self._rank(examples, top_n)

    def probability(self, score: float) -> float:
        """The probability that a document with this score is relevant, from 0 to 1; 0 for -inf.

        Raises:
            ValueError: if the export has no calibration (`stages.export.calibration`).
        """
        if self.contract.calibration is None:
            raise ValueError("the export has no calibration, so that scores have no probabilities")
        return self.contract.calibration.probability(score)

    def verify(self, tolerance: float = 1e-3) -> None:
        """Rescore the golden pairs.

        Raises:
            ValueError: if a score differs from the exported one by more than `tolerance`.
        """
        for golden in self.contract.golden:
            example = contract.golden_example(golden.query, golden.documents)
            [scored], _ = scores([example], self.paradigm, self.engine, self.contract.long_documents)
            found = [scored[docid] for docid in example.docids]
            for i, (now, then) in enumerate(zip(found, golden.scores, strict=True)):
                if not abs(now - then) <= tolerance:  # also where one is NaN
                    raise ValueError(
                        f"the golden query {golden.query!r}, document {i}: this engine scores {now:.6f} and the model "
                        f"was exported with {then:.6f}, a difference above {tolerance}"
                    )

    def close(self) -> None:
        """Free the model's memory; a second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self.engine.close()

    def _rank(self, examples: Sequence[RankingExample], top_n: int | None) -> list[list[tuple[int, float]]]:
        if self._is_closed:
            raise ValueError("the reranker is closed; load it again")
        empty = {e.qid: [c.docid for c in e.candidates if not (c.text.strip() or c.title.strip())] for e in examples}
        examples = [
            replace(e, candidates=tuple(c for c in e.candidates if c.docid not in empty[e.qid])) for e in examples
        ]
        asking = [example for example in examples if example.candidates]
        scored, rollouts = scores(asking, self.paradigm, self.engine, self.contract.long_documents)
        by_qid = {example.qid: values for example, values in zip(asking, scored, strict=True)}
        found = [{**by_qid.get(e.qid, {}), **dict.fromkeys(empty[e.qid], -math.inf)} for e in examples]
        asked: dict[str, list[Rollout]] = {example.qid: [] for example in examples}
        for rollout in rollouts:
            asked[rollout.prompt.qid].append(rollout)
        for qid, mine in asked.items():
            check_finite(mine, f"request {qid}: " if len(examples) > 1 else "")
        return [[(int(docid), score) for docid, score in each.items()][:top_n] for each in found]


def _engine(kind: str, args: dict[str, Any]) -> EngineConfig:
    beside = {name: args.pop(name) for name in ("batch_tokens", "bf16") if kind == "hf" and name in args}
    return EngineConfig(kind=kind, args=args, **beside)


def _check_top_n(top_n: int | None) -> None:
    if top_n is not None and (not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1):
        raise ValueError(f"top_n must be at least 1, or None for all documents; got {top_n!r}")


def _example(qid: str, query: str, documents: Sequence[Document], instruction: str) -> RankingExample:
    if not isinstance(query, str):
        raise ValueError(f"the query must be a text; got {type(query).__name__}")
    if not query.strip():
        raise ValueError("the query is empty, so there is nothing to rank for")
    if isinstance(documents, (str, Mapping)):
        raise ValueError("documents must be a list of texts or mappings; got a single one")
    if not isinstance(documents, Iterable):
        raise ValueError(f"documents must be a list of texts or mappings; got {type(documents).__name__}")
    candidates = tuple(_candidate(i, document) for i, document in enumerate(documents))
    if not candidates:
        raise ValueError("documents is empty: give at least one document to rank")
    return RankingExample(qid=qid, query=query, candidates=candidates, instruction=instruction)


def _candidate(index: int, document: Document) -> Candidate:
    if isinstance(document, str):
        document = {"text": document}
    if not isinstance(document, Mapping):
        raise ValueError(f"document {index} must be a text or a mapping with 'text'; got {type(document).__name__}")
    text, title = document.get("text"), document.get("title") or ""
    if not isinstance(text, str) or not isinstance(title, str):
        raise ValueError(f"document {index} must have its 'text' and its 'title', if any, as strings")
    return Candidate(docid=str(index), text=text, title=title, rank=index + 1)
