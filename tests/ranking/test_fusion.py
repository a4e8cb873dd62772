"""Means over repetitions, and fusion of two rankings."""

from dataclasses import replace

import pytest

from rl_rerank.paradigms.ordering import rank_by_order, rank_by_scores
from rl_rerank.ranking.fusion import average, first_stage, fuse, values
from rl_rerank.types import Candidate, RankingExample

RUN = {"a": 9.0, "b": 8.0, "c": 5.0, "d": 1.0}
EXAMPLE = RankingExample(
    "q", "query", tuple(Candidate(d, d, rank=i, score=s) for i, (d, s) in enumerate(RUN.items(), start=1))
)


def scored(example=EXAMPLE, **scores):
    return rank_by_scores(example, scores, num_prompts=2, num_malformed=1, num_fallbacks=0)


def test_minmax_by_hand():
    # model 4 0 2 1 -> 1 0 .5 .25; BM25 9 8 5 1, less 1, over 8 -> 1 .875 .5 0; .75 and .25 of them:
    # a 1, b .21875, c .5, d .1875
    fused = fuse(scored(a=4.0, b=0.0, c=2.0, d=1.0), first_stage(EXAMPLE), "minmax", 0.75)
    assert fused.raw_scores == pytest.approx({"a": 1.0, "b": 0.21875, "c": 0.5, "d": 0.1875})
    assert fused.docids == ("a", "c", "b", "d")
    assert (fused.num_prompts, fused.num_malformed) == (2, 1)


def test_zscore_by_hand():
    # model 3 1 1 3: mean 2, deviation 1 -> 1 -1 -1 1; run 2 2 4 4: mean 3, deviation 1 -> -1 -1 1 1
    # .8 and .2: a .6, b -1, c -.6, d 1
    fused = fuse(scored(a=3.0, b=1.0, c=1.0, d=3.0), scored(a=2.0, b=2.0, c=4.0, d=4.0), "zscore", 0.8)
    assert fused.raw_scores == pytest.approx({"a": 0.6, "b": -1.0, "c": -0.6, "d": 1.0})
    assert fused.docids == ("d", "a", "c", "b")


def test_rrf_by_hand_with_a_document_that_one_ranking_lacks():
    # ranks a b c against c a: a 1/61 + 1/62, b 1/62 + 0, c 1/63 + 1/61, halved
    fused = fuse(rank_by_order("q", "abc"), rank_by_order("q", "ca"), "rrf", 0.5)
    halves = {"a": (1 / 61 + 1 / 62) / 2, "b": 1 / 62 / 2, "c": (1 / 63 + 1 / 61) / 2}
    assert fused.raw_scores == pytest.approx(halves)
    assert fused.docids == ("a", "c", "b")


def test_a_sum_takes_scores_as_they_are_and_the_lowest_where_there_is_none():
    # .5 * (2, 1, 4) + .5 * (1, 5, 1), the second run has no c: its lowest, 1
    three, two = (replace(EXAMPLE, candidates=EXAMPLE.candidates[:n]) for n in (3, 2))
    fused = fuse(scored(three, a=2.0, b=1.0, c=4.0), scored(two, a=1.0, b=5.0), "sum", 0.5)
    assert fused.raw_scores == {"a": 1.5, "b": 3.0, "c": 2.5}


def test_equal_scores_say_nothing_and_equal_sums_stand_as_in_the_first_ranking():
    assert values(scored(a=2.0, b=2.0, c=2.0, d=2.0), "minmax") == dict.fromkeys("abcd", 0.0)
    assert values(scored(a=2.0, b=2.0, c=2.0, d=2.0), "zscore") == dict.fromkeys("abcd", 0.0)
    # 1 0 against 0 1, half and half: both .5
    two = replace(EXAMPLE, candidates=EXAMPLE.candidates[:2])
    assert fuse(scored(two, a=0.0, b=1.0), scored(two, a=1.0, b=0.0), "minmax", 0.5).docids == ("b", "a")


def test_an_order_without_scores_counts_by_ranks():
    # 3 2 1 -> 1 .5 0
    assert values(rank_by_order("q", "abc"), "minmax") == {"a": 1.0, "b": 0.5, "c": 0.0}
    unscored = replace(EXAMPLE, candidates=(replace(EXAMPLE.candidates[0], score=None), *EXAMPLE.candidates[1:]))
    assert first_stage(unscored).raw_scores is None
    assert first_stage(EXAMPLE).raw_scores == RUN
    assert list(first_stage(EXAMPLE).scores.values()) == [4, 3, 2, 1]


def test_rankings_of_two_queries_are_not_fused():
    with pytest.raises(ValueError, match="'q' and 'other'"):
        fuse(rank_by_order("q", "a"), rank_by_order("other", "a"), "rrf", 0.5)


def test_repetitions_are_averaged_over_those_that_scored_a_document():
    # a (1 + 3) / 2 = 2, b 6 / 1 = 6, c (4 + 2) / 2 = 3; nobody scored d, which stands behind c and takes its score
    mean = average(EXAMPLE, [scored(a=1.0, c=4.0, b=6.0), scored(a=3.0, c=2.0)])
    assert mean.raw_scores == {"a": 2.0, "b": 6.0, "c": 3.0}
    assert mean.docids == ("b", "c", "d", "a")
    assert (mean.num_prompts, mean.num_malformed) == (4, 2)


def test_orders_are_averaged_by_rank_and_equal_means_stand_as_shown():
    # ranks of a: 1 3, b: 2 2, c: 3 1, d: 4 4; means 2 2 2 4
    shown = replace(EXAMPLE, candidates=tuple(map(EXAMPLE.candidate, "cadb")))
    mean = average(shown, [rank_by_order("q", "abcd"), rank_by_order("q", "cbad")])
    assert mean.docids == ("c", "a", "b", "d")
    assert mean.raw_scores is None
