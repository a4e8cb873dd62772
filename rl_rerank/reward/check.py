"""Property checks of a reward: `rl-rerank rewards check NAME`.

    runs           it raises no error on any completion, and every value is finite
    deterministic  the same completion always earns the same
    in_a_process   another process that builds the reward by name and parameters gives the same values
    gold_best      no other completion of a prompt earns more than the gold one
    orders         gold completions earn more on average than reversed and than random ones
    pays_partial   no malformed completion earns more than the well-formed one it was made from
    pays_identity  the shown order earns no more than a random one if documents are shown in random order
    pays_constant  equal scores earn no more than a random order either

A class attribute `unclaimed = {"pays_partial": "why"}` exempts a reward from any of the last five, or from `binary` (it
only separates relevant from irrelevant). Unclaimed properties are shown but not required.
"""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.reward.base import RewardError, Term, calls, evaluate
from rl_rerank.reward.probe_completions import (
    FAMILIES,
    HOSTILE,
    Probe,
    completion,
    malformed,
    probes,
    rollout,
    well_formed,
)
from rl_rerank.reward.workers import Workers
from rl_rerank.types import Completion, Rollout

CLAIMS = ("gold_best", "orders", "pays_partial", "pays_identity", "pays_constant", "binary")
"""Properties that a reward can leave unclaimed."""
QUERIES, SHUFFLES = 6, 300
GENERATIONS = 2
"""Completions per prompt for a reward of whole queries."""
TOLERANCE = 1e-9
ERRORS = 4.0
"""Standard errors by which one mean must exceed another."""


@dataclass
class Report:
    """Results for one paradigm."""

    paradigm: str
    values: dict[str, list[float]] = field(default_factory=dict)
    """Kind of completion -> its rewards."""
    failures: dict[str, str] = field(default_factory=dict)
    """Property -> the first case that violates it."""
    unclaimed: dict[str, str] = field(default_factory=dict)

    def fail(self, claim: str, said: str) -> None:
        """Record the first failure of a claim, unless it is unclaimed."""
        if claim not in self.unclaimed:
            self.failures.setdefault(claim, said)

    def lines(self) -> list[str]:
        """Format the table, and a sentence for every failure and every unclaimed property."""
        rows = [f"{self.paradigm:<24}{'mean':>9}{'min':>9}{'max':>9}"]
        for name, values in self.values.items():
            rows.append(f"  {name:<22}{statistics.fmean(values):9.4f}{min(values):9.4f}{max(values):9.4f}")
        rows += [f"  not claimed: {claim}: {reason}" for claim, reason in self.unclaimed.items()]
        return rows + [f"  FAILED {claim}: {said}" for claim, said in self.failures.items()]


def check(term: Term, paradigm: Paradigm, *, queries: int = QUERIES, shuffles: int = SHUFFLES) -> Report:
    """Try a reward on the completions of one paradigm.

    Args:
        queries: queries per family for checks of single completions.
        shuffles: queries per family for comparisons of means.

    Raises:
        ValueError: if an unclaimed property is not one that is checked.
    """
    unclaimed = dict(term.traits.unclaimed)
    if odd := [claim for claim in unclaimed if claim not in CLAIMS]:
        raise ValueError(f"reward {term.name!r}: unclaimed names {odd[0]!r}; it can name: {', '.join(CLAIMS)}")
    report = Report(paradigm.name, unclaimed=unclaimed)
    families = ["binary"] if "binary" in unclaimed else list(FAMILIES)
    try:
        if term.recipe is not None:
            _in_a_process(term, probes(paradigm, count=1, families=families), paradigm, report)
        for probe in probes(paradigm, count=queries, families=families):
            _spoil(term, paradigm, probe, report)
        _compare(term, paradigm, probes(paradigm, count=shuffles, families=families, seed=1), report)
    except ValueError as e:
        report.fail("runs", str(e))
    return report


def _in_a_process(term: Term, tried: Sequence[Probe], paradigm: Paradigm, report: Report) -> None:
    """Compare with the values of a process that builds the reward itself, as workers do in training."""
    workers = Workers(replace(term, workers=1))
    try:
        for probe in tried:
            for texts in well_formed(paradigm, probe, random.Random(0)).values():
                base = _rollouts(term, paradigm, probe, texts)
                given = workers.evaluate([(probe.example, some) for some in calls(term, base)])
                if _values(term, probe, base) != [found.value for some in given for found in some]:
                    report.fail("in_a_process", f"another process gives another value for {texts[0]!r}")
    except RewardError as e:
        report.fail("in_a_process", str(e))
    finally:
        workers.close()


def _spoil(term: Term, paradigm: Paradigm, probe: Probe, report: Report) -> None:
    """Run all checks of single completions of one query."""
    texts = well_formed(paradigm, probe, random.Random(probe.example.qid))
    gold = _rollouts(term, paradigm, probe, texts["gold"])
    best = _values(term, probe, gold)
    for name, answers in texts.items():
        base = _rollouts(term, paradigm, probe, answers)
        values = _values(term, probe, base)
        report.values.setdefault(name, []).extend(values)
        if _values(term, probe, base) != values:
            report.fail("deterministic", f"{answers[0]!r} earned {values[0]} at first, and then something else")
        for place, prompt in enumerate(probe.prompts):
            at = place * _copies(term)
            _gold_best(term, probe, gold, best, at, base[at], name, report)
            for kind, answered in malformed(answers[place], len(prompt.docids)).items():
                spoiled = rollout(paradigm, prompt, answered)
                value = _with(term, probe, base, at, spoiled)
                report.values.setdefault(kind.partition(" at ")[0], []).append(value)
                _gold_best(term, probe, gold, best, at, spoiled, kind, report)
                if not spoiled.judgment.is_ok and value > values[at] + TOLERANCE:
                    said = f"{_shown(answered)} earns {value:.4f} and {answers[place]!r} {values[at]:.4f}"
                    report.fail("pays_partial", said)
    for text in HOSTILE:
        hostile = rollout(paradigm, probe.prompts[0], completion(text))
        report.values.setdefault("hostile", []).append(_with(term, probe, gold, 0, hostile))
        _gold_best(term, probe, gold, best, 0, hostile, "hostile", report)


def _gold_best(
    term: Term,
    probe: Probe,
    gold: Sequence[Rollout],
    best: Sequence[float],
    at: int,
    other: Rollout,
    name: str,
    report: Report,
) -> None:
    value = _with(term, probe, gold, at, other)
    if value > best[at] + TOLERANCE:
        answered, right = _shown(other.completion), _shown(gold[at].completion)
        report.fail("gold_best", f"{name}: {answered} earns {value:.4f} and the gold {right} {best[at]:.4f}")


def _compare(term: Term, paradigm: Paradigm, tried: Sequence[Probe], report: Report) -> None:
    """Compare means over many queries: of gold with others, and of completions that ignore the labels with random."""
    means = [_means(term, paradigm, probe) for probe in tried]
    if not means:
        return
    for name in ("reversed", "random"):
        gained, error = _gap(means, "gold", name)
        if gained <= ERRORS * error + TOLERANCE:
            said = f"gold earns {gained:.4f} +- {error:.4f} more than {name} over {len(means)} queries"
            report.fail("orders", f"{said}, so that it teaches no order")
    for name in sorted({name for one in means for name in one} - {"gold", "reversed", "random"}):
        having = [one for one in means if name in one]
        gained, error = _gap(having, name, "random")
        if gained > ERRORS * error + TOLERANCE:
            claim = "pays_identity" if name == "identity" else "pays_constant"
            report.fail(claim, f"{name} earns {gained:.4f} +- {error:.4f} more than random over {len(having)} queries")


def _means(term: Term, paradigm: Paradigm, probe: Probe) -> dict[str, float]:
    """Map the name of each well-formed completion to its mean reward over the query's prompts."""
    texts = well_formed(paradigm, probe, random.Random(probe.example.qid))
    return {
        name: statistics.fmean(_values(term, probe, _rollouts(term, paradigm, probe, answers)))
        for name, answers in texts.items()
    }


def _gap(means: Sequence[Mapping[str, float]], name: str, other: str) -> tuple[float, float]:
    """Mean over queries of the difference between two completions, and its standard error."""
    gap = [one[name] - one[other] for one in means]
    return statistics.fmean(gap), statistics.stdev(gap) / len(gap) ** 0.5


def _copies(term: Term) -> int:
    return GENERATIONS if term.needs_query else 1


def _rollouts(term: Term, paradigm: Paradigm, probe: Probe, texts: Sequence[str]) -> list[Rollout]:
    return [
        rollout(paradigm, prompt, completion(text))
        for prompt, text in zip(probe.prompts, texts, strict=True)
        for _ in range(_copies(term))
    ]


def _values(term: Term, probe: Probe, rollouts: Sequence[Rollout]) -> list[float]:
    return [found.value for found in evaluate(term, probe.example, rollouts)]


def _with(term: Term, probe: Probe, rollouts: Sequence[Rollout], at: int, other: Rollout) -> float:
    """Score `other` in place of one rollout."""
    if not term.needs_query:
        return _values(term, probe, [other])[0]
    return _values(term, probe, [*rollouts[:at], other, *rollouts[at + 1 :]])[at]


def _shown(answered: Completion) -> str:
    cut = " (cut)" if answered.finish_reason == "length" else ""
    return f"{answered.text[:120]!r}{cut}"
