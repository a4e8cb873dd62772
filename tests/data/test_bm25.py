"""BM25 against hand-computed scores."""

from math import log

import pytest

from rl_rerank.data.bm25 import retrieve
from rl_rerank.data.records import Document, Query

DOCUMENTS = {
    "d1": Document("", "ice cave ice"),
    "d2": Document("Cave", "rock wall lamp"),
    "d3": Document("", "river water"),
}


def test_scores_are_lucenes_with_k1_of_0_9_and_b_of_0_4():
    runs = retrieve(DOCUMENTS, [Query("q1", "ice caves")], depth=10)
    # 3 documents of 3, 4 and 2 words, 3 on average. "caves" is stemmed to "cave".
    # idf = ln(1 + (N - df + 0.5) / (df + 0.5)): ice in 1 of 3: ln(1 + 2.5/1.5); cave in 2 of 3: ln(1 + 1.5/2.5)
    ice, cave = log(1 + 2.5 / 1.5), log(1 + 1.5 / 2.5)
    # tf part = tf / (tf + k1 (1 - b + b length / average)): d1: norm = 0.9 (0.6 + 0.4) = 0.9;
    # d2: norm = 0.9 (0.6 + 0.4 * 4/3) = 1.02
    d1 = ice * 2 / (2 + 0.9) + cave * 1 / (1 + 0.9)
    d2 = cave * 1 / (1 + 1.02)
    assert [docid for docid, _ in runs["q1"]] == ["d1", "d2"]
    assert [score for _, score in runs["q1"]] == pytest.approx([d1, d2], rel=1e-5)


def test_a_query_without_a_known_word_has_no_candidates_and_the_others_keep_theirs():
    runs = retrieve(DOCUMENTS, [Query("q1", "zebra"), Query("q2", "the"), Query("q3", "river")], depth=10)
    assert [len(runs[qid]) for qid in ("q1", "q2", "q3")] == [0, 0, 1]


def test_excluded_documents_make_room_for_the_next_ones():
    queries = [Query("q1", "ice cave"), Query("q2", "ice cave")]
    runs = retrieve(DOCUMENTS, queries, depth=1, excluded={"q1": {"d1"}})
    assert [[docid for docid, _ in runs[qid]] for qid in ("q1", "q2")] == [["d2"], ["d1"]]


def test_equal_scores_are_ordered_by_the_larger_docid():
    same = {docid: Document("", "ice cave") for docid in ("a", "c", "b")}
    assert [docid for docid, _ in retrieve(same, [Query("q", "ice")], depth=3)["q"]] == ["c", "b", "a"]


def test_a_corpus_without_words_and_no_queries_at_all_give_no_candidates():
    assert retrieve({"d": Document("", "?")}, [Query("q", "ice")], depth=3) == {"q": []}
    assert retrieve({}, [Query("q", "ice")], depth=3) == {"q": []}
    assert retrieve(DOCUMENTS, [], depth=3) == {}
