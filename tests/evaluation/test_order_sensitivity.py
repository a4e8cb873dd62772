"""Agreement across shuffles and hits by position, by hand."""

import random
import statistics

import pytest

from rl_rerank.evaluation.functions.positions import agreement, hits_by_position


def test_equal_rankings_agree_and_reversed_ones_do_not():
    assert agreement(["abcd", "abcd", "abcd"]) == pytest.approx(1.0)
    assert agreement(["abcd", "dcba"]) == pytest.approx(-1.0)


def test_agreement_by_hand():
    # One of three pairs swapped: (2 - 1) / 3. Of the three pairs of rankings two are abc/acb and one is abc/abc.
    assert agreement(["abc", "acb"]) == pytest.approx(1 / 3)
    assert agreement(["abc", "acb", "abc"]) == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)


def test_agreement_about_the_first_k_by_hand():
    assert agreement(["abcd", "acbd"], 1) == pytest.approx(1.0)  # pairs with a: all three agree
    assert agreement(["abcd", "acbd"], 2) == pytest.approx((5 - 1) / 6)
    assert agreement(["abcd", "abdc"], 2) == pytest.approx(1.0)  # c and d are not settled
    assert agreement(["abcd", "dcba"], 1) == pytest.approx(-1.0)
    assert agreement(["abcd", "abdc"], 9) == agreement(["abcd", "abdc"])
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        agreement(["ab", "ba"], 0)


def test_random_rankings_agree_about_their_firsts_no_more_than_by_chance():
    rng = random.Random(1)
    taus = [agreement([rng.sample(range(20), 20), rng.sample(range(20), 20)], 5) for _ in range(2000)]
    assert abs(statistics.fmean(taus)) < 3 * statistics.stdev(taus) / 2000**0.5


@pytest.mark.parametrize(
    ("rankings", "reason"),
    [
        (["abc"], "at least two rankings"),
        ([], "at least two rankings"),
        (["a", "a"], "at least two documents"),
        (["abc", "abd"], "number 2 differs"),
        (["abb", "abb"], "number 1 differs"),
    ],
)
def test_rankings_that_cannot_be_compared_are_refused(rankings, reason):
    with pytest.raises(ValueError, match=reason):
        agreement(rankings)


def test_hits_by_position_by_hand():
    # The relevant a is shown first and hit, then shown third and missed, then shown third and hit.
    rankings = [("q", "abc", "acb"), ("q", "bca", "bca"), ("q", "cba", "abc")]
    assert hits_by_position(rankings, {"q": {"a": 2, "b": 0}}, k=1) == [(1, 1, 1.0), (3, 2, 0.5)]
    # Two of three are enough for all but the second ranking.
    assert hits_by_position(rankings, {"q": {"a": 2, "b": 0}}, k=3) == [(1, 1, 1.0), (3, 2, 1.0)]
    assert hits_by_position(rankings, {"q": {"a": 2}}, k=1, rel=3) == []


def test_a_ranker_that_returns_what_it_was_shown_hits_at_the_first_k_positions_only():
    shown = ["abcd", "bcda", "cdab", "dabc"]
    found = hits_by_position([("q", order, order) for order in shown], {"q": {"a": 1}}, k=2)
    assert [(hits.position, hits.hit_rate) for hits in found] == [(1, 1.0), (2, 1.0), (3, 0.0), (4, 0.0)]


def test_queries_without_judgments_have_no_hits():
    assert hits_by_position([("other", "ab", "ab")], {"q": {"a": 1}}, k=1) == []
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        hits_by_position([], {}, k=0)
