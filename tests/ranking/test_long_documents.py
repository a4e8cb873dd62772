"""Cutting, splitting and summarising, and scores of passages made into scores of documents."""

import math

import pytest

from rl_rerank.config import LongDocumentsConfig, build
from rl_rerank.paradigms.ordering import rank_by_scores
from rl_rerank.ranking.long_documents import aggregate, idf, passages, quite, view
from rl_rerank.types import Candidate, RankingExample


def example(**texts):
    candidates = [Candidate(d, text, "T", rank=i) for i, (d, text) in enumerate(texts.items(), start=1)]
    return RankingExample("q", "ice cave", tuple(candidates))


def split(ex, **settings):
    return view(ex, LongDocumentsConfig(**{"mode": "maxp", "words": 2, "overlap": 0, **settings}))


def ranked(shown, scores):
    return rank_by_scores(shown.example, scores, num_prompts=5, num_malformed=2, num_fallbacks=1)


@pytest.mark.parametrize(
    ("text", "words", "overlap", "pieces"),
    [
        # starts 0 2 4, each 3 words long; the last has what is left
        ("a b c d e f", 3, 1, ["a b c", "c d e", "e f"]),
        ("a b c d e", 3, 1, ["a b c", "c d e"]),
        ("a b c d", 2, 0, ["a b", "c d"]),
        ("a  b\nc", 2, 0, ["a  b", "c"]),
        ("a b", 9, 3, ["a b"]),
        ("a", 3, 2, ["a"]),
        (" ", 3, 2, [" "]),
    ],
)
def test_passages_hold_so_many_words_and_share_some(text, words, overlap, pieces):
    assert passages(text, words, overlap) == pieces


def test_each_passage_is_a_candidate_with_its_documents_title():
    shown = split(example(a="1 2 3", b="4"))
    assert [(c.docid, c.title, c.text, c.rank) for c in shown.example.candidates] == [
        ("a#1", "T", "1 2", 1),
        ("a#2", "T", "3", 2),
        ("b#1", "T", "4", 3),
    ]
    assert shown.owners == {"a#1": "a", "a#2": "a", "b#1": "b"}


def test_the_best_passage_or_the_sum_of_all_decides():
    ex = example(a="1 2 3", b="4", c="5 6 7 8")
    shown = split(ex)
    # a: max 2 sum 3; b: 4; c: max 3 sum 6
    ranking = ranked(shown, {"a#1": 1.0, "a#2": 2.0, "b#1": 4.0, "c#1": 3.0, "c#2": 3.0})
    best = aggregate(ex, shown, ranking, mode="maxp", scale="points")
    assert (best.docids, best.raw_scores) == (("b", "c", "a"), {"a": 2.0, "b": 4.0, "c": 3.0})
    total = aggregate(ex, shown, ranking, mode="sump", scale="points")
    assert (total.docids, total.raw_scores) == (("c", "b", "a"), {"a": 3.0, "b": 4.0, "c": 6.0})
    assert (total.num_prompts, total.num_malformed, total.num_fallbacks) == (5, 2, 1)


def test_log_odds_are_summed_as_probabilities():
    ex = example(a="1 2 3 4", b="5 6")
    shown = split(ex)
    # a: ln 3 is 3/4 and -ln 4 is 1/5, .95 together; b: ln 4 is 4/5. As log-odds a would have less than b.
    scores = {"a#1": math.log(3), "a#2": -math.log(4), "b#1": math.log(4)}
    total = aggregate(ex, shown, ranked(shown, scores), mode="sump", scale="log_odds")
    assert total.raw_scores == pytest.approx({"a": 0.95, "b": 0.8})
    huge = aggregate(ex, shown, ranked(shown, {"a#1": -1e4, "b#1": 1e4}), mode="sump", scale="log_odds")
    assert huge.raw_scores == {"a": 0.0, "b": 1.0}


def test_unscored_passages_are_left_out_and_unscored_documents_imputed():
    ex = example(a="1 2 3", b="4", c="5")
    shown = split(ex)
    # a has its second passage's 4; b lies between a and c: (4 + 2) / 2 = 3
    ranking = aggregate(ex, shown, ranked(shown, {"a#2": 4.0, "c#1": 2.0}), mode="maxp", scale="points")
    assert dict(ranking.scores) == {"a": 4.0, "b": 3.0, "c": 2.0}


def test_quite_by_hand():
    # weights: ice 3, cave 2, melt 2; alpha .5
    # 1st: s1 (ice) 3, s2 (cave, melt) 4, s3 (ice, cave) 5 -> s3; ice 1.5, cave 1
    # 2nd: s1 1.5, s2 1 + 2 = 3, s4 (cave) 1 -> s2; cave .5, melt 1
    # 3rd: s1 1.5, s4 .5 -> s1
    text = "Ice is cold. A cave may melt! See the ice cave. No cave here."
    weights = {"ice": 3.0, "cave": 2.0, "melt": 2.0}
    assert quite("ice cave melt", text, weights, 1, 0.5) == "See the ice cave."
    assert quite("ice cave melt", text, weights, 2, 0.5) == "A cave may melt! See the ice cave."
    assert quite("ice cave melt", text, weights, 3, 0.5) == "Ice is cold. A cave may melt! See the ice cave."


def test_what_is_covered_once_gives_way_to_something_new():
    # s1 3 + 2 = 5 first; then s2 (ice, cave) has 1.5 + 1 = 2.5 and s3 (melt) 2.6
    text = "An ice cave. The ice cave again. They melt."
    weights = {"ice": 3.0, "cave": 2.0, "melt": 2.6}
    assert quite("ice cave melt", text, weights, 2, 0.5) == "An ice cave. They melt."


def test_a_text_without_query_words_gives_its_first_sentences_and_a_short_one_all():
    assert quite("ice", "One. Two. Three.", {}, 2, 0.5) == "One. Two."
    assert quite("ice", "One\nTwo", {}, 5, 0.5) == "One Two"
    assert quite("ice", "", {}, 5, 0.5) == ""


def test_weights_are_inverse_document_frequencies_over_the_candidates():
    # ice in 2 of 3: ln(1 + 1.5 / 2.5) = ln 1.6; cave in 1 of 3: ln(1 + 2.5 / 1.5) = ln 8/3
    found = idf(["ice ice", "Ice cave", "rock"])
    assert found["ice"] == pytest.approx(math.log(1.6))
    assert found["cave"] == pytest.approx(math.log(8 / 3))


def test_views_of_one_candidate_a_document_keep_docids():
    ex = example(a="1 2 3", b="An ice cave. Nothing. Rock.")
    first = view(ex, LongDocumentsConfig(mode="firstp", words=2, overlap=0))
    assert ([c.text for c in first.example.candidates], first.owners) == (["1 2", "An ice"], {})
    summary = view(ex, LongDocumentsConfig(mode="quite", sentences=1))
    assert [c.text for c in summary.example.candidates] == ["1 2 3", "An ice cave."]
    assert view(ex, LongDocumentsConfig()).example == ex


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"mode": "avgp"}, "must be one of head, firstp, maxp, sump, quite; got 'avgp'"),
        ({"words": 5, "overlap": 5}, "overlap must be from 0 to words - 1"),
        ({"sentences": 0}, "sentences must be at least 1"),
        ({"alpha": 1.0}, "alpha must lie between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        build(LongDocumentsConfig, settings)
