"""Whether malformed completions earn what the system's gates say."""

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.reward.base import evaluate, total
from rl_rerank.reward.build import reward_terms
from rl_rerank.reward.probe_completions import malformed, rollout
from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class Gates:
    """Right answers to the run's own training prompts, each spoiled in one way, earn what the tiers says."""

    expected: Mapping[str, float] = field(default_factory=dict)
    """Fault, as `rewards check` names it, without its place -> what it has to earn."""
    queries: int = 5

    def __call__(self, run: Run) -> list[Finding]:
        earned = self._earned(run)
        return [
            Finding(
                f"a completion with the fault {fault!r} earns {value:g}",
                earned.get(fault) == {value},
                "no completion can have it" if fault not in earned else ", ".join(f"{v:g}" for v in earned[fault]),
            )
            for fault, value in self.expected.items()
        ]

    def _earned(self, run: Run) -> dict[str, set[float]]:
        paradigm, terms = build_paradigm(run.config, run.config.paradigm), reward_terms(run.config)
        made = ((e, paradigm.prompts(e, random.Random(e.qid))) for e in run.store.examples("train"))
        found: dict[str, set[float]] = {}
        for example, prompts in itertools.islice(((e, p) for e, p in made if p), self.queries):
            right, documents = paradigm.target(example, prompts[0]), len(prompts[0].docids)
            for fault, spoiled in malformed(right, documents).items():
                seen = rollout(paradigm, prompts[0], spoiled)
                values = {term.name: evaluate(term, example, [seen])[0].value for term in terms}
                found.setdefault(fault.partition(" at ")[0], set()).add(round(total(terms, values), 9))
        return found
