"""Whether the rewards of a training stage can score its completions, known before anything starts."""

import random
from collections.abc import Iterable, Sequence

from rl_rerank import registry
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.reward.base import RewardError, Term, evaluate
from rl_rerank.reward.probe_completions import Probe, completion, probes, rollout
from rl_rerank.types import RankingExample


def refuse_undeclared(place: str, terms: Iterable[Term], paradigm: Paradigm) -> None:
    """Refuse a reward that declares the paradigms it can score if this one is not among them.

    A paradigm of another package is left to `try_out`: the authors of rewards cannot know it.

    Raises:
        ValueError: naming `place`, the reward and its paradigms.
    """
    if not _is_ours(paradigm.name):
        return
    for term in terms:
        declared = term.traits.paradigms
        if not declared or paradigm.name in declared:
            continue
        orders = traits(paradigm).list_scores and "listwise" in declared
        advice = f"; {place}.policy=scores rewards orders of documents, as listwise completions" if orders else ""
        raise ValueError(
            f"{place}: the reward {term.name!r} scores completions of {', '.join(declared)}, not of {paradigm.name}"
            f"{advice}. `rl-rerank rewards list` shows what each reward scores"
        )


def first_probe(examples: Iterable[RankingExample], paradigm: Paradigm) -> Probe | None:
    """The first example that gives prompts, with these, or else a made-up query; None if that gives none either."""
    for example in examples:
        if asked := paradigm.prompts(example, random.Random(0)):
            return Probe(example, tuple(asked))
    return next(iter(probes(paradigm, count=1, families=["distinct"])), None)


def try_out(place: str, terms: Sequence[Term], paradigm: Paradigm, probe: Probe, *, malformed: bool) -> None:
    """Score the right answers to a query's prompts, and with `malformed` an empty one, by every term.

    Rewards that ask a model are left out, since that takes time or money.

    Raises:
        ValueError: naming `place`, the reward and the completion, if a reward fails or gives no finite number.
    """
    right = [rollout(paradigm, p, completion(paradigm.target(probe.example, p))) for p in probe.prompts]
    empty = rollout(paradigm, probe.prompts[0], completion(""))
    for term in terms:
        if term.traits.asks_model:
            continue
        try:
            evaluate(term, probe.example, right)
            if malformed:
                evaluate(term, probe.example, [empty, *right[1:]] if term.needs_query else [empty])
        except RewardError as e:
            raise ValueError(f"{place}: {e}") from e


def _is_ours(name: str) -> bool:
    return name in registry.names("paradigm") and registry.find("paradigm", name).__module__.startswith("rl_rerank.")
