"""Whether reasoning is about the documents that the answer behind it puts on top."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rl_rerank.prompts.tags import DEFAULT
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.stages.synth.spec import SynthStage
from rl_rerank.types import Completion, Prompt

CITED = re.compile(r"\[(\d{1,4}|[A-Z])\]|\b(?:[Pp]assages?|[Dd]oc(?:ument)?s?)\s+(\d{1,4}|[A-Z])\b")
"""`[2]`, `[B]`, `Passage 2`, `document B`: identifiers as prompts and reasoning name them."""


@dataclass(frozen=True)
class CitesTop:
    """The reasoning of this share of well-formed answers names a document that no other is above in the answer.

    Reasoning that names every document of its prompt says nothing about this and does not count; one that names none
    counts as wrong. Nor do answers count that put all documents on one level, or are about a single one.
    """

    stage: str
    """A synth stage, whose SFT rows are read, or a rerank stage, whose answers are."""
    paradigm: str = ""
    """Of a synth stage's rows; empty: the experiment's."""
    at_least: float = 0.8

    def refuse(self, run: Run) -> None:
        found = run.config.stages.get(self.stage)
        if not isinstance(found, (SynthStage, RerankStage)):
            raise LookupError(f"{self.stage!r} is neither a synth nor a rerank stage, so it has no reasoning to read")
        if not getattr(run.built(self._name(run)), "reasoning", False):
            raise ValueError(f"the paradigm {self._name(run)!r} of {self.stage!r} does not reason")

    def __call__(self, run: Run) -> list[Finding]:
        paradigm = run.built(self._name(run))
        right = names_all = looked_at = 0
        by_chance = 0.0
        for docids, text in self._answers(run):
            judgment = paradigm.parse(Prompt("", docids, ()), Completion(text), strict=True)
            scores = judgment.scores
            if len(set(scores.values())) < 2:
                continue
            best = {docid for docid in scores if scores[docid] == max(scores.values())}
            cited = _cited(text, docids)
            if len(cited) == len(docids):
                names_all += 1
                continue
            looked_at += 1
            right += bool(best & cited)
            by_chance += 1 - _misses(len(docids), len(best), len(cited))
        share, chance = (right / looked_at, by_chance / looked_at) if looked_at else (0.0, 0.0)
        what = f"{self.stage}: the reasoning of at least {self.at_least:.0%} of the answers names one of their best"
        found = f"{share:.0%} ({right} of {looked_at}), {chance:.0%} by chance; {names_all} more name all documents"
        # Rows of a synth stage are from a template or a teacher, not from the model of the experiment.
        by_model = isinstance(run.config.stages[self.stage], RerankStage)
        return [Finding(what, looked_at > 0 and share >= self.at_least, found, is_quality=by_model)]

    def _name(self, run: Run) -> str:
        found = run.config.stages.get(self.stage)
        chosen = found.paradigm if isinstance(found, RerankStage) else self.paradigm
        return chosen or run.config.paradigm

    def _answers(self, run: Run) -> Iterator[tuple[tuple[str, ...], str]]:
        rows: list[dict[str, Any]]
        if isinstance(run.config.stages.get(self.stage), SynthStage):
            rows = [row for row in run.rows(self.stage, "rows.jsonl") if row["paradigm"] == self._name(run)]
            yield from ((tuple(row["docids"]), row["target"]) for row in rows)
        else:
            rows = [row for of_query in run.asked(self.stage).values() for row in of_query]
            yield from ((tuple(row["docids"]), row["text"]) for row in rows)


def _cited(text: str, docids: tuple[str, ...]) -> set[str]:
    """The documents that the reasoning names."""
    names = [one or other for one, other in CITED.findall(text.rpartition(DEFAULT.open)[0])]
    places = [int(name) if name.isdecimal() else ord(name) - ord("A") + 1 for name in names]
    return {docids[place - 1] for place in places if 1 <= place <= len(docids)}


def _misses(documents: int, best: int, cited: int) -> float:
    """The probability that none of `cited` random documents is among the best."""
    missed = 1.0
    for drawn in range(cited):
        missed *= max(documents - best - drawn, 0) / (documents - drawn)
    return missed
