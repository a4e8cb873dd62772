"""duoBERT's aggregations against sums by hand, and their dependence on the order shown."""

import math
from itertools import permutations

import pytest

from rl_rerank.paradigms.build import make
from rl_rerank.paradigms.preferences import AGGREGATIONS
from rl_rerank.types import Candidate, Completion, RankingExample

# Probabilities that the document shown first is better; they lean to the first place.
P = {("a", "b"): 0.9, ("b", "a"): 0.4, ("a", "c"): 0.6, ("c", "a"): 0.7, ("b", "c"): 0.8, ("c", "b"): 0.3}


def example(docids):
    return RankingExample("q", "query", tuple(Candidate(docid, f"text {docid}") for docid in docids))


def ranked(paradigm, docids, p=P):
    strategy = paradigm.strategy(example(docids))
    prompts = next(strategy)
    answers = [
        Completion("", continuations={"A": math.log(p[prompt.docids]), "B": math.log(1 - p[prompt.docids])})
        for prompt in prompts
    ]
    with pytest.raises(StopIteration) as stop:
        strategy.send([paradigm.parse(q, c, strict=True) for q, c in zip(prompts, answers, strict=True)])
    return stop.value.value


def duo(aggregation):
    return make("pairwise", {"mode": "scoring", "aggregation": aggregation})


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sum", {"a": 0.9 + 0.6, "b": 0.4 + 0.8, "c": 0.7 + 0.3}),
        ("binary", {"a": 2, "b": 1, "c": 1}),
        ("min", {"a": 0.6, "b": 0.4, "c": 0.3}),
        ("max", {"a": 0.9, "b": 0.8, "c": 0.7}),
        # Shown as a, b, c: of c there are 1 - .6 and 1 - .8.
        ("one_order", {"a": 0.9 + 0.6, "b": 0.1 + 0.8, "c": 0.4 + 0.2}),
    ],
)
def test_aggregations_are_those_of_the_paper(aggregation, expected):
    ranking = ranked(duo(aggregation), "abc")
    assert ranking.raw_scores == pytest.approx(expected)
    assert ranking.num_prompts == (3 if aggregation == "one_order" else 6)


@pytest.mark.parametrize("aggregation", ["sym_sum", *AGGREGATIONS])
def test_only_a_sum_over_one_order_depends_on_the_order_shown(aggregation):
    scores = [ranked(duo(aggregation), docids).raw_scores for docids in permutations("abc")]
    is_invariant = all(found == pytest.approx(scores[0]) for found in scores)
    assert is_invariant == (aggregation != "one_order")


def test_with_consistent_probabilities_one_order_is_half_of_both():
    fair = {(i, j): 1 / (1 + math.exp(ord(i) - ord(j))) for i, j in P}
    one, both = (ranked(duo(name), "bca", fair).raw_scores for name in ("one_order", "sym_sum"))
    assert both == pytest.approx({docid: 2 * score for docid, score in one.items()})


def test_an_answer_that_cannot_be_used_is_a_half():
    paradigm = duo("sum")
    strategy = paradigm.strategy(example("ab"))
    prompts = next(strategy)
    broken = [Completion("", continuations={"A": math.nan, "B": -1.0}) for _ in prompts]
    with pytest.raises(StopIteration) as stop:
        strategy.send([paradigm.parse(q, c, strict=True) for q, c in zip(prompts, broken, strict=True)])
    assert stop.value.value.raw_scores == {"a": 0.5, "b": 0.5} and stop.value.value.num_fallbacks == 2


def test_a_single_document_has_no_pair():
    strategy = duo("max").strategy(example("a"))
    assert next(strategy) == []
    with pytest.raises(StopIteration) as stop:
        strategy.send([])
    assert stop.value.value.docids == ("a",)


@pytest.mark.parametrize("params", [{"mode": "generation"}, {"mode": "scoring", "method": "heapsort"}])
def test_probabilities_of_all_pairs_are_needed(params):
    with pytest.raises(ValueError, match="aggregation=sum needs the probabilities of all pairs, so"):
        make("pairwise", {**params, "aggregation": "sum"})
