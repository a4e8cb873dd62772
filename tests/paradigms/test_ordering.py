"""Scores of documents that have none, and orders."""

from rl_rerank.paradigms.ordering import counts, imputed, order_by, rank_by_scores
from rl_rerank.types import Candidate, Ranking, RankingExample


def shown(*docids, ranks=None):
    candidates = [Candidate(d, d, rank=None if ranks is None else ranks[d]) for d in docids]
    return RankingExample("q", "query", tuple(candidates))


def test_a_missing_score_lies_on_the_line_between_its_neighbours_in_the_first_stage():
    # first stage a b c d e f; b = 4, e = 1: c = 4 - 3 * 1/3 = 3, d = 4 - 3 * 2/3 = 2; a takes the 4 of b, f the 1 of e
    ranks = {d: i for i, d in enumerate("abcdef", start=1)}
    found = imputed(shown("f", "c", "a", "e", "b", "d", ranks=ranks), {"b": 4.0, "e": 1.0})
    assert found == {"a": 4.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0, "f": 1.0}


def test_without_ranks_the_neighbours_are_those_of_the_shown_order():
    # c at place 2 of b (0), x (1), c (2), e (3): from b = 4 to e = 1 the line is 4 3 2 1
    assert imputed(shown("b", "x", "c", "e"), {"b": 4.0, "e": 1.0}) == {"b": 4.0, "x": 3.0, "c": 2.0, "e": 1.0}


def test_where_nothing_was_scored_the_shown_order_stays():
    ranking = rank_by_scores(
        shown("c", "a", "b", ranks={"a": 1, "b": 2, "c": 3}), {}, num_prompts=3, num_malformed=3, num_fallbacks=3
    )
    assert ranking.docids == ("c", "a", "b")
    assert ranking.raw_scores == {}


def test_equal_scores_become_ranks_and_stay_in_the_raw_scores():
    ranking = rank_by_scores(shown("a", "b"), {"a": 0.5, "b": 0.5}, num_prompts=2, num_malformed=0, num_fallbacks=0)
    assert (ranking.docids, dict(ranking.scores)) == (("a", "b"), {"a": 2.0, "b": 1.0})
    assert ranking.raw_scores == {"a": 0.5, "b": 0.5}


def test_counters_add_up():
    first = Ranking("q", ("a",), {"a": 1.0}, num_prompts=2, num_retries=1)
    second = Ranking("q", ("a",), {"a": 1.0}, num_prompts=3, num_malformed=1, num_fallbacks=1)
    found = counts([first, second])
    assert {name: n for name, n in found.items() if n} == {
        "num_prompts": 5,
        "num_malformed": 1,
        "num_fallbacks": 1,
        "num_retries": 1,
    }
    assert order_by("q", ("a", "b"), {"a": 1.0, "b": 2.0}).docids == ("b", "a")
