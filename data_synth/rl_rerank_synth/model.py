"""The teacher that is a model: its own answers, of which only the well-formed and good ones are kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rl_rerank.engines.build import build_stage_engine
from rl_rerank.metrics import expected_ndcg
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.stages.synth import StepContext
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Sampling
from rl_rerank_synth.questions import questions

logger = logging.getLogger(__name__)

SMALLEST_BATCH, LARGEST_BATCH = 4, 32
"""Prompts asked in one call and journalled together: what a kill can lose."""


@dataclass(frozen=True)
class ModelTeacher:
    """Lets the configured model answer, greedily or with the stage's temperature.

    A row is kept if the strict parser accepts the answer and its nDCG@10 over the prompt's documents is at least
    `min_ndcg`. Where all of them have one grade nDCG says nothing: with `min_ndcg` above 0 the scores must then be
    those of the answer that the labels call for. Answers are journalled in rows.partial.jsonl, so that a stage that
    was killed does not ask for them again.
    """

    def __call__(
        self,
        examples: Sequence[RankingExample],
        paradigm_name: str,
        paradigm: Paradigm,
        count: int,
        context: StepContext,
    ) -> Iterator[dict[str, Any]]:
        """Rows in a seeded order until there are `count`, no more prompts, or not one good answer in a whole pass."""
        journal = _Journal(context.directory / "rows.partial.jsonl")
        walk = questions(examples, paradigm, context.stage.seed)
        while (missing := count - context.counts["kept"]) > 0:
            batch = list(islice(walk, min(max(missing, SMALLEST_BATCH), LARGEST_BATCH)))
            is_hopeless = context.counts["kept"] == 0 and context.counts.total() >= max(len(examples), LARGEST_BATCH)
            if not batch or is_hopeless:
                return
            completions = _answers([prompt for _, prompt in batch], paradigm, context, journal)
            for (example, prompt), completion in zip(batch, completions, strict=True):
                judgment = paradigm.parse(prompt, completion, strict=True)
                outcome = _outcome(example, prompt, judgment, paradigm, context.stage.min_ndcg)
                if context.counts["kept"] >= count:
                    return
                context.counts[outcome] += 1
                if outcome == "kept":
                    yield {
                        "qid": example.qid,
                        "paradigm": paradigm_name,
                        "docids": list(prompt.docids),
                        "target": completion.text,
                        "teacher": "model",
                    }


def _outcome(example: RankingExample, prompt: Prompt, judgment: Judgment, paradigm: Paradigm, min_ndcg: float) -> str:
    if not judgment.is_ok:
        return "malformed"
    qrels = {docid: example.qrels.get(docid, 0) for docid in prompt.docids}
    if len(set(qrels.values())) > 1:
        is_good = expected_ndcg(judgment.scores, qrels, k=10) >= min_ndcg
    else:
        target = Completion(paradigm.target(example, prompt))
        is_good = min_ndcg <= 0 or judgment.scores == paradigm.parse(prompt, target, strict=True).scores
    return "kept" if is_good else "filtered"


def _answers(
    prompts: Sequence[Prompt], paradigm: Paradigm, context: StepContext, journal: _Journal
) -> list[Completion]:
    """One completion a prompt, from the journal where it stands there."""
    keys = [_key(prompt, context) for prompt in prompts]
    new = [n for n, key in enumerate(keys) if key not in journal.answers]
    if new:
        if context.engine is None:
            context.engine = build_stage_engine(context.config, "model", context.stage.engine)
        sampling = Sampling(
            paradigm.max_completion_tokens, temperature=context.stage.temperature, seed=context.stage.seed
        )
        answered = context.engine.generate([prompts[n] for n in new], sampling)
        journal.add({keys[n]: completions[0] for n, completions in zip(new, answered, strict=True)})
    return [journal.answers[key] for key in keys]


def _key(prompt: Prompt, context: StepContext) -> str:
    """What identifies an answer: the model, how it was sampled, and the question."""
    engine = context.stage.engine or context.config.engine
    model = [asdict(context.config.model), engine.answering()]
    asked = [*model, context.stage.temperature, context.stage.seed, asdict(prompt)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


class _Journal:
    """Answers by key, kept in a file that grows by whole batches."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.answers: dict[str, Completion] = {}
        if not path.is_file():
            return
        content = path.read_bytes()
        # A kill can cut the last line short: it is dropped, and its question asked again.
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)
        for line in whole.decode().splitlines():
            row = json.loads(line)
            self.answers[row["key"]] = Completion(row["text"], finish_reason=row["finish_reason"])
        logger.info("%s: going on after %d answers", path, len(self.answers))

    def add(self, answers: dict[str, Completion]) -> None:
        """Write a batch and keep it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            for key, completion in answers.items():
                row = {"key": key, "text": completion.text, "finish_reason": completion.finish_reason}
                file.write(json.dumps(row) + "\n")
        self.answers |= answers
