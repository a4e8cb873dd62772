import itertools
import math
import random

import ir_measures
import pytest
from ir_measures import AP, RR, R, nDCG

from rl_rerank.io.trec import trec_order
from rl_rerank.metrics import (
    average_overlap,
    average_precision,
    by_place,
    dcg,
    js,
    kendall_tau,
    kl,
    ndcg,
    norm_area,
    normalised,
    pairwise_agreement,
    rbo,
    recall,
    reciprocal_power,
    reciprocal_rank,
    wss,
)


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
    assert ndcg({"a": 1.0, "b": 1.0}, {"a": 1}, k=10) == pytest.approx(0.81546, abs=1e-5)
    # three tie, the cutoff keeps one: found in one order of three
    assert recall({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1}, k=1) == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(30))
def test_the_expectation_is_the_average_over_all_orders_of_equal_scores(seed):
    rng = random.Random(seed)
    scores = {d: float(rng.randint(0, 2)) for d in "abcdef"}
    qrels = {d: rng.randint(0, 3) for d in "abcdefz"}
    k = rng.randint(1, 7)
    orders = [o for o in itertools.permutations("abcdef") if list(o) == sorted(o, key=lambda d: -scores[d])]
    assert ndcg(scores, qrels, k=k) == pytest.approx(sum(ndcg(o, qrels, k=k) for o in orders) / len(orders))
    gold = {d: float(rng.randint(0, 5)) for d in "abcdef"}
    golds = [o for o in itertools.permutations("abcdef") if list(o) == sorted(o, key=lambda d: -gold[d])]
    window = {d: grade for d, grade in qrels.items() if d in scores}
    for expected, measure in [
        (recall(scores, qrels, k=k), lambda o: recall(o, qrels, k=k)),
        (reciprocal_rank(scores, qrels), lambda o: reciprocal_rank(o, qrels)),
        (reciprocal_rank(scores, qrels, k=k), lambda o: reciprocal_rank(o, qrels, k=k)),
        (average_precision(scores, qrels), lambda o: average_precision(o, qrels)),
        (reciprocal_power(scores, qrels, exponent=3), lambda o: reciprocal_power(o, qrels, exponent=3)),
        (norm_area(scores, window), lambda o: norm_area(by_place(o), window)),
    ]:
        assert expected == pytest.approx(sum(map(measure, orders)) / len(orders))
    for expected, measure in [
        (average_overlap(scores, gold), average_overlap),
        (rbo(scores, gold, p=0.7), lambda a, b: rbo(a, b, p=0.7)),
        (rbo(scores, gold, extrapolate=True), lambda a, b: rbo(a, b, extrapolate=True)),
    ]:
        if len(orders) * len(golds) <= 400:
            pairs = [measure(by_place(o), by_place(g)) for o in orders for g in golds]
            assert expected == pytest.approx(sum(pairs) / len(pairs))


def random_orders(*, ties: bool) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """10,000 queries: up to 30 retrieved documents, some of them unjudged, and judged ones that were not retrieved."""
    rng = random.Random(7)
    qrels, run = {}, {}
    for number in range(10_000):
        pool = [f"d{i}" for i in range(rng.randint(1, 30))]
        judged = rng.sample(pool, rng.randint(1, len(pool)))
        qrels[f"q{number}"] = {d: rng.choice([0, 0, 1, 2, 3]) for d in judged} | {"missing": rng.randint(0, 1)}
        ranked = rng.sample(pool, rng.randint(1, len(pool)))
        levels = len(ranked) if not ties else 4
        run[f"q{number}"] = {d: float(rng.randrange(levels) if ties else -i) for i, d in enumerate(ranked)}
    return qrels, run


MEASURES = {
    nDCG @ 10: lambda order, qrels: ndcg(order, qrels, k=10),
    nDCG @ 3: lambda order, qrels: ndcg(order, qrels, k=3),
    R @ 5: lambda order, qrels: recall(order, qrels, k=5),
    R @ 20: lambda order, qrels: recall(order, qrels, k=20),
    RR: reciprocal_rank,
    AP: average_precision,
}


@pytest.mark.slow
@pytest.mark.parametrize("ties", [False, True], ids=["orders", "ties by trec_eval's rule"])
def test_values_equal_ir_measures_on_ten_thousand_random_orders(ties):
    qrels, run = random_orders(ties=ties)
    reference = {(m.query_id, m.measure): m.value for m in ir_measures.iter_calc(list(MEASURES), qrels, run)}
    assert len(reference) == 10_000 * len(MEASURES)
    for qid, scores in run.items():
        order = trec_order(scores)  # of equal scores the larger docid comes first
        for measure in MEASURES:
            assert abs(MEASURES[measure](order, qrels[qid]) - reference[qid, measure]) <= 1e-9
            if not ties:
                assert abs(MEASURES[measure](scores, qrels[qid]) - reference[qid, measure]) <= 1e-9


@pytest.mark.parametrize("measure", [ndcg, recall])
def test_a_repeated_document_and_a_cutoff_below_one_are_refused(measure):
    with pytest.raises(ValueError, match="docids must not repeat"):
        measure(["a", "a"], {"a": 1}, k=2)
    with pytest.raises(ValueError, match="k must be >= 1; got 0"):
        measure(["a"], {"a": 1}, k=0)


def test_exponential_gains_by_hand():
    # gains 0, 3, 1: (3/log2(3) + 1/log2(4)) / (3 + 1/log2(3)) = 2.39279 / 3.63093
    assert ndcg(["a", "b", "c"], {"b": 2, "c": 1}, k=3, gain="exponential") == pytest.approx(0.65900, abs=1e-5)
    with pytest.raises(ValueError, match="gain must be one of linear, exponential; got 'cubic'"):
        ndcg(["a"], {"a": 1}, k=1, gain="cubic")


def test_reciprocal_rank_and_average_precision_by_hand():
    order, qrels = list("abcd"), {"b": 1, "d": 2, "missing": 1, "c": 0}
    assert reciprocal_rank(order, qrels) == 1 / 2
    assert reciprocal_rank(order, qrels, k=1) == 0.0
    assert average_precision(order, qrels) == pytest.approx((1 / 2 + 2 / 4) / 3)  # "missing" is found nowhere


TWENTY = [f"d{i:02}" for i in range(20)]


def swapped(first):
    """The twenty with ranks `first` and `first` + 1 exchanged."""
    order = list(TWENTY)
    order[first - 1], order[first] = order[first], order[first - 1]
    return order


@pytest.mark.parametrize(
    ("order", "overlap", "truncated"),
    [
        (TWENTY, 1.0, 0.8784),  # every depth shares everything: 1; .1 (1 + .9 + ... + .9^19) = 1 - .9^20 = 1 - .12158
        # depth d <= 10 shares nothing, d > 10 shares 2(d - 10) of d: sum of 2(d - 10)/d over 11..20, / 20
        (TWENTY[::-1], 0.3312, 0.1329),
        (swapped(1), 0.95, 0.7784),  # depth 1 shares nothing: 19/20; .8784 - .1
        (swapped(19), 0.9974, 0.8776),  # depth 19 shares 18 of 19: 1 - 1/19/20; .8784 - .1 * .9^18 / 19
    ],
    ids=["identical", "reversed", "first two", "last two"],
)
def test_overlap_with_an_order_of_twenty(order, overlap, truncated):
    gold = by_place(TWENTY)
    assert average_overlap(by_place(order), gold) == pytest.approx(overlap, abs=5e-5)
    assert rbo(by_place(order), gold, p=0.9) == pytest.approx(truncated, abs=5e-5)


def test_extrapolated_overlap_of_an_order_with_itself_is_one():
    assert rbo(by_place(TWENTY), by_place(TWENTY), extrapolate=True) == pytest.approx(1.0)
    # two of three: depth 1 shares 0, 2 and 3 share all: .1 * (0 + .9 + .81) + 1 * .9^3
    assert rbo(by_place("bac"), by_place("abc"), p=0.9, extrapolate=True) == pytest.approx(0.171 + 0.729)


@pytest.mark.parametrize("p", [0, 1, 1.5])
def test_a_persistence_of_one_is_refused_because_it_is_average_overlap(p):
    with pytest.raises(ValueError, match="p = 1 is average overlap"):
        rbo({"a": 1.0}, {"a": 1.0}, p=p)


def test_orders_of_different_documents_are_not_compared():
    with pytest.raises(ValueError, match="must be of the same documents; 'b' is in one of them only"):
        average_overlap({"a": 1.0}, {"a": 1.0, "b": 0.0})


def test_agreement_on_pairs_by_hand():
    gold = {"a": 2, "b": 1, "c": 1}
    # pairs a-b and a-c count: a > b is right, a = c is half right
    assert pairwise_agreement({"a": 1.0, "b": 0.0, "c": 1.0}, gold) == 0.75
    assert kendall_tau({"a": 1.0, "b": 0.0, "c": 1.0}, gold) == 0.5
    assert kendall_tau(by_place("abc"), by_place("cba")) == -1.0
    assert kendall_tau(by_place("abcd"), by_place("abdc")) == pytest.approx((5 - 1) / 6)
    assert pairwise_agreement({"a": 1.0, "b": 0.0}, {"a": 1, "b": 1}) == 0.5


@pytest.mark.parametrize(
    ("order", "relevant", "value"),
    [
        ("dabce", "bd", 0.9218),  # [4,1,2,3,5], relevant 2 and 4: (1 + 1/27) / (1 + 1/8) = 1.03704 / 1.125
        ("abcde", "e", 0.008),  # rank 5: 1/125
        ("babaa", "b", 1.0),  # a repeated document counts once
        ("abc", "", 0.0),
    ],
)
def test_reciprocal_cubes(order, relevant, value):
    assert reciprocal_power(order, dict.fromkeys(relevant, 1), exponent=3) == pytest.approx(value, abs=5e-5)


def test_divergence_of_two_distributions():
    p, q = (0.4, 0.3, 0.2, 0.1), (0.5, 0.25, 0.25, 0.0)
    # middle (.45, .275, .225, .05); KL(P|M) = -.06797 + .03766 - .03398 + .1 = .03570, KL(Q|M) = .07963 bits
    assert js(p, q) == pytest.approx(0.05767, abs=5e-6)
    assert js(p, q, base=math.e) == pytest.approx(0.03997, abs=5e-6)
    assert js((1.0, 0.0), (0.0, 1.0)) == pytest.approx(1.0)
    assert js((1.0, 0.0), (0.0, 1.0), base=math.e) == pytest.approx(0.6931, abs=5e-5)  # ln 2 < 1
    assert kl((0.5, 0.5), (0.25, 0.75)) == pytest.approx(0.5 * 1 + 0.5 * math.log2(2 / 3))
    assert kl(p, q) == math.inf


def test_scores_become_a_distribution():
    assert normalised([3, 1]) == [0.75, 0.25]
    assert normalised([3, 0], smoothing=1) == [0.8, 0.2]
    assert normalised([0, 0]) == [0.5, 0.5]
    assert normalised([2, 1], how="softmax", temperature=0.5)[0] == pytest.approx(1 / (1 + math.exp(-2)))
    with pytest.raises(ValueError, match="got -1; use softmax"):
        normalised([1, -1])


def test_total_recall_by_hand():
    # ranks 1 and 4 of 4 relevant: areas .5, 1, 1, 1.5 = 4, over 2 * 4 - 2 = 6
    assert norm_area(by_place("abcd"), {"a": 1, "d": 1}) == pytest.approx(4 / 6)
    assert norm_area(by_place("abcd"), {"a": 1, "b": 2}) == 1.0
    # 20 of 100 relevant, on ranks 1..19 and 100: round(.95 * 20) = 19 is reached at rank 19: .81 - .05
    order = by_place([f"d{i}" for i in range(100)])
    assert wss(order, dict.fromkeys([f"d{i}" for i in [*range(19), 99]], 1)) == pytest.approx(0.76)
    assert wss(dict.fromkeys("abcd", 0.0), {"a": 1}) == pytest.approx(0 - 0.05)  # of equal ones it stands last
