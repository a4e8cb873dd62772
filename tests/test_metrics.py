import itertools
import random

import ir_measures
import pytest
from ir_measures import R, nDCG

from rl_rerank.metrics import dcg, expected_ndcg, expected_recall, ndcg, recall


def test_dcg_by_hand():
    # 3/log2(2) + 2/log2(3) + 0 + 1/log2(5) = 3 + 1.26186 + 0.43068
    assert dcg([3, 2, 0, 1]) == pytest.approx(4.69254, abs=1e-5)


def test_ndcg_by_hand():
    # ranks      1   2   3      gains 0, 2, 1
    # DCG   = 0 + 2/log2(3) + 1/log2(4) = 1.26186 + 0.5     = 1.76186
    # ideal = 2 + 1/log2(3)             = 2 + 0.63093       = 2.63093
    assert ndcg(["a", "b", "c"], {"b": 2, "c": 1}, k=3) == pytest.approx(0.66967, abs=1e-5)


@pytest.mark.parametrize(
    ("relevant", "k", "value"),
    [
        ("ak", 10, 0.61315),  # 1 / (1 + 0.63093): the second relevant one stands behind the cutoff
        ("ak", 11, 0.78418),  # (1 + 1/log2(12)) / (1 + 0.63093) = 1.27894 / 1.63093
        ("ij", 10, 0.36181),  # (1/log2(10) + 1/log2(11)) / 1.63093 = (0.30103 + 0.28906) / 1.63093
        ("ab", 10, 1.0),
        ("", 10, 0.0),
    ],
)
def test_ndcg_of_two_relevant_documents(relevant, k, value):
    assert ndcg(list("abcdefghijk"), dict.fromkeys(relevant, 1), k=k) == pytest.approx(value, abs=1e-5)


def test_the_ideal_is_drawn_from_all_qrels_and_negative_grades_gain_nothing():
    # "z" was not retrieved: the ideal still holds it. DCG 1, ideal 1 + 1/log2(3) = 1.63093
    assert ndcg(["a", "b"], {"a": 1, "b": -2, "z": 1}, k=10) == pytest.approx(1 / 1.63093, abs=1e-5)


def test_recall_by_hand():
    assert recall(list("abcd"), {"a": 1, "d": 2, "z": 1, "b": 0}, k=3) == pytest.approx(1 / 3)  # a of a, d, z
    assert recall(list("abcd"), {"b": 0}, k=3) == 0.0


def test_equal_scores_count_as_the_mean_over_their_orders():
    # "a" and "b" tie on ranks 1 and 2, one of them relevant: (1 + 0.63093) / 2
    assert expected_ndcg({"a": 1.0, "b": 1.0}, {"a": 1}, k=10) == pytest.approx(0.81546, abs=1e-5)
    # three tie, the cutoff keeps one: found in one order of three
    assert expected_recall({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1}, k=1) == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(30))
def test_the_expectation_is_the_average_over_all_orders_of_equal_scores(seed):
    rng = random.Random(seed)
    scores = {d: float(rng.randint(0, 2)) for d in "abcdef"}
    qrels = {d: rng.randint(0, 3) for d in "abcdefz"}
    k = rng.randint(1, 7)
    orders = [o for o in itertools.permutations("abcdef") if list(o) == sorted(o, key=lambda d: -scores[d])]
    assert expected_ndcg(scores, qrels, k=k) == pytest.approx(sum(ndcg(o, qrels, k=k) for o in orders) / len(orders))
    assert expected_recall(scores, qrels, k=k) == pytest.approx(
        sum(recall(o, qrels, k=k) for o in orders) / len(orders)
    )


def test_values_equal_ir_measures_on_random_orders():
    rng = random.Random(7)
    for _ in range(300):
        pool = [f"d{i}" for i in range(rng.randint(1, 30))]
        judged = rng.sample(pool, rng.randint(1, len(pool)))
        qrels = {d: rng.choice([0, 0, 1, 2, 3]) for d in judged} | {"elsewhere": rng.randint(0, 1)}
        ranked = rng.sample(pool, len(pool))
        run = {"q": {d: float(len(ranked) - i) for i, d in enumerate(ranked)}}
        k = rng.choice([1, 3, 5, 10, 20])
        reference = ir_measures.calc_aggregate([nDCG @ k, R @ k], {"q": qrels}, run)
        assert ndcg(ranked, qrels, k=k) == pytest.approx(reference[nDCG @ k], abs=1e-9)
        assert expected_ndcg(run["q"], qrels, k=k) == pytest.approx(reference[nDCG @ k], abs=1e-9)
        assert recall(ranked, qrels, k=k) == pytest.approx(reference[R @ k], abs=1e-9)


@pytest.mark.parametrize("measure", [ndcg, recall])
def test_a_repeated_document_and_a_cutoff_below_one_are_refused(measure):
    with pytest.raises(ValueError, match="docids must not repeat"):
        measure(["a", "a"], {"a": 1}, k=2)
    with pytest.raises(ValueError, match="k must be >= 1; got 0"):
        measure(["a"], {"a": 1}, k=0)
