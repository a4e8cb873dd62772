"""Splits are by query, by hash, and stay put when data grow."""

import pytest

from rl_rerank.data.records import Omissions, Query
from rl_rerank.data.splits import assign, by_hash, fold, fraction

QUERIES = [Query(f"q{n}", "text") for n in range(1000)]


def names(queries: list[Query]) -> list[str]:
    return [query.qid for query in queries]


def test_a_collection_without_splits_is_cut_70_10_20():
    found = assign(QUERIES, 1, Omissions())
    sizes = {split: len(queries) for split, queries in found.items()}
    # Binomial standard deviations at n = 1000: sqrt(.7 * .3 / 1000) = .0145, .0095 and .0126; allow three of them.
    assert sizes["train"] == pytest.approx(700, abs=44)
    assert sizes["dev"] == pytest.approx(100, abs=29)
    assert sizes["test"] == pytest.approx(200, abs=38)
    assert sorted(qid for queries in found.values() for qid in names(queries)) == sorted(names(QUERIES))


def test_a_query_keeps_its_split_when_others_come_and_moves_with_the_seed():
    small, large = assign(QUERIES[:100], 1, Omissions()), assign(QUERIES, 1, Omissions())
    for split, queries in small.items():
        assert set(names(queries)) <= set(names(large[split]))
    assert assign(QUERIES, 2, Omissions()) != large


def test_queries_of_one_cluster_fall_into_one_split():
    clustered = [query._replace(cluster=f"c{n // 10}") for n, query in enumerate(QUERIES)]
    for queries in assign(clustered, 1, Omissions()).values():
        assert len(queries) == 10 * len({query.cluster for query in queries})


def test_given_splits_are_kept_and_dev_is_carved_out_of_train_only_where_it_is_absent():
    halves = [query._replace(split="train" if n % 2 else "test") for n, query in enumerate(QUERIES)]
    found = assign(halves, 1, Omissions())
    assert names(found["test"]) == names(QUERIES[::2])
    # A tenth of 500, three standard deviations of sqrt(500 * .1 * .9) = 6.7
    assert len(found["dev"]) == pytest.approx(50, abs=20)
    assert set(names(found["dev"])) | set(names(found["train"])) == set(names(QUERIES[1::2]))
    complete = [query._replace(split="dev") if n < 10 else query for n, query in enumerate(halves)]
    assert names(assign(complete, 1, Omissions())["dev"]) == names(QUERIES[:10])


def test_queries_without_a_split_among_others_that_have_one_are_left_out_and_counted():
    omissions = Omissions()
    found = assign([Query("q1", "x", "test"), Query("q2", "x"), Query("q3", "x")], 1, omissions)
    assert found == {"train": [], "dev": [], "test": [Query("q1", "x", "test")]}
    assert omissions.sentences() == (
        "queries left out, because they have no split and others have one: 2 (first: qid 'q2')",
    )


def test_the_order_of_choice_is_seeded_and_unmoved_by_other_queries():
    ordered = names(by_hash(QUERIES, 1))
    assert names(by_hash(QUERIES[::-1], 1)) == ordered != names(by_hash(QUERIES, 2))
    some = set(names(QUERIES[:50]))
    assert names(by_hash(QUERIES[:50], 1)) == [qid for qid in ordered if qid in some]


def test_the_hash_is_the_same_on_every_machine():
    # sha256(b"1:split:q1") begins with b618a73082eea9: 0xb618a73082eea9 / 256**7 = 0.71131...
    assert fraction("1:split:q1") == 0xB618A73082EEA9 / 256**7 == pytest.approx(0.7113137, abs=1e-7)


def test_folds_are_of_equal_size_and_each_query_is_held_out_once():
    queries = [query._replace(cluster=f"c{n // 2}") for n, query in enumerate(QUERIES[:80])]
    parts = [fold(queries, 1, 4, test) for test in range(4)]
    for number, splits in enumerate(parts):
        assert {name: len(part) for name, part in splits.items()} == {"train": 40, "dev": 20, "test": 20}
        assert splits["dev"] == parts[(number + 1) % 4]["test"]
        # Both queries of a cluster are in one split.
        assert all(len(part) == 2 * len({query.cluster for query in part}) for part in splits.values())
    assert sorted(q.qid for splits in parts for q in splits["test"]) == sorted(q.qid for q in queries)
    assert fold(queries[::-1], 1, 4, 0)["test"] == parts[0]["test"][::-1]
    assert fold(queries, 2, 4, 0) != parts[0]


def test_folds_of_too_few_queries_or_of_given_splits_are_refused():
    with pytest.raises(ValueError, match=r"data\.folds=4: there are only 3 queries"):
        fold(QUERIES[:3], 1, 4, 0)
    with pytest.raises(ValueError, match=r"data\.folds=3: the queries have splits already, test"):
        fold([*QUERIES[:5], Query("q", "x", "test")], 1, 3, 0)
