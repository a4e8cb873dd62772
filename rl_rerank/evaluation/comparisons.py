"""Test systems against baselines, with p-values adjusted over a table."""

from collections.abc import Mapping, Sequence

from rl_rerank.evaluation.measures import Evaluation
from rl_rerank.evaluation.records import Comparison
from rl_rerank.evaluation.seeds import paired_test_over_seeds
from rl_rerank.evaluation.statistics import PairedTest, holm, paired_test


def compare(
    systems: Mapping[str, Sequence[Evaluation]], pairs: Sequence[Sequence[str]], measure: str, seed: int
) -> list[Comparison]:
    """Test each pair on `measure`.

    Args:
        systems: name -> the evaluations of its runs, one for each seed, on the same judged queries.
        pairs: [system, baseline] each.
    """
    return adjusted(
        pairs, measure, [_test(*(_values(systems[name], measure) for name in pair), seed=seed) for pair in pairs]
    )


def adjusted(pairs: Sequence[Sequence[str]], measure: str, tests: Sequence[PairedTest]) -> list[Comparison]:
    """The tests of the pairs [system, baseline], with p-values adjusted by Holm's method over all of them."""
    p_values = holm([test.p_value for test in tests])
    return [
        Comparison(system, baseline, measure, *test, p)
        for (system, baseline), test, p in zip(pairs, tests, p_values, strict=True)
    ]


def _test(system: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], *, seed: int) -> PairedTest:
    if len(system) == len(baseline) == 1:
        return paired_test(system[0], baseline[0], seed)
    return paired_test_over_seeds(system, baseline, seed)


def _values(evaluations: Sequence[Evaluation], measure: str) -> list[list[float]]:
    qids = evaluations[0].per_query
    return [[evaluation.per_query[qid][measure] for qid in qids] for evaluation in evaluations]
