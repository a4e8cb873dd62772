"""The evaluator on small cases whose values are computed by hand, and against the reward's own nDCG."""

import math
import random

import pytest

from rl_rerank.evaluation.measures import evaluate, is_sum, parse
from rl_rerank.io.trec import trec_order
from rl_rerank.metrics import ndcg


def value(run, qrels, measure, qid="q"):
    return evaluate({qid: run}, {qid: qrels}, [measure]).per_query[qid][measure]


def test_gains_are_linear():
    # a (grade 3) at rank 2, b (grade 1) at rank 1: DCG = 1/1 + 3/log2(3); ideal = 3/1 + 1/log2(3)
    expected = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    assert value({"b": 2.0, "a": 1.0}, {"a": 3, "b": 1}, "nDCG@10") == pytest.approx(expected, abs=1e-9)


def test_of_equal_scores_the_larger_docid_comes_first():
    # Order c, b, a: the only relevant document, a, stands at rank 3.
    scores = {"a": 1.0, "b": 1.0, "c": 1.0}
    assert trec_order(scores) == ["c", "b", "a"]
    for measure in ("RR", "RR@10", "AP"):
        assert value(scores, {"a": 1}, measure) == pytest.approx(1 / 3)


def test_ties_are_broken_alike_for_measures_that_trec_eval_does_not_compute():
    # b, a: b is unjudged. Judged@1 and RR@1 see b only.
    scores = {"a": 1.0, "b": 1.0}
    assert value(scores, {"a": 1}, "Judged@1") == 0.0
    assert value(scores, {"a": 1}, "RR@1") == 0.0


def test_scores_are_compared_as_32_bit_floats():
    # 1 + 1e-9 rounds to 1 in 32 bits, so this is a tie and b comes first.
    assert trec_order({"a": 1 + 1e-9, "b": 1.0}) == ["b", "a"]
    assert trec_order({"a": 1 + 1e-6, "b": 1.0}) == ["a", "b"]


def test_an_unjudged_document_takes_a_rank_and_gains_nothing():
    # u, a: AP = precision at a's rank = 1/2; P@2 = 1/2.
    scores = {"u": 2.0, "a": 1.0}
    assert value(scores, {"a": 1}, "AP") == pytest.approx(0.5)
    assert value(scores, {"a": 1}, "P@2") == pytest.approx(0.5)
    assert value(scores, {"a": 1}, "Judged@2") == pytest.approx(0.5)


def test_the_ideal_counts_relevant_documents_that_were_not_retrieved():
    # DCG = 1; ideal = 1 + 1/log2(3)
    assert value({"a": 1.0}, {"a": 1, "z": 1}, "nDCG@10") == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_a_query_without_relevant_documents_is_worth_zero():
    for measure in ("nDCG@10", "AP", "RR@10", "P@5", "R@100", "Bpref", "Rprec", "SetF"):
        assert value({"a": 1.0}, {"a": 0}, measure) == 0.0


def test_a_negative_grade_gains_nothing_and_is_not_relevant():
    # a (-1), b (2): DCG = 2/log2(3); ideal = 2
    scores = {"a": 2.0, "b": 1.0}
    assert value(scores, {"a": -1, "b": 2}, "nDCG@10") == pytest.approx(1 / math.log2(3))
    assert value(scores, {"a": -1, "b": 2}, "P@2") == pytest.approx(0.5)


def test_a_judged_query_that_the_run_lacks_counts_zero_and_is_listed():
    run = {"1": {"a": 1.0}, "empty": {}}
    qrels = {"1": {"a": 1}, "2": {"b": 1}, "empty": {"c": 1, "d": 1}}
    result = evaluate(run, qrels, ["AP", "NumRel", "NumRet"])
    assert result.mean["AP"] == pytest.approx(1 / 3)
    assert result.missing == ("2", "empty")
    assert result.per_query["2"] == {"AP": 0.0, "NumRel": 1.0, "NumRet": 0.0}
    # As trec_eval -c: 1 + 1 + 2 relevant, 1 retrieved
    assert (result.mean["NumRel"], result.mean["NumRet"]) == (4.0, 1.0)
    assert is_sum("NumRel") and not is_sum("AP")


def test_queries_without_judgments_are_left_out_and_counted():
    result = evaluate({"1": {"a": 1.0}, "9": {"a": 1.0}}, {"1": {"a": 1}}, ["AP"])
    assert result.mean == {"AP": 1.0}
    assert list(result.per_query) == ["1"]
    assert result.num_unjudged == 1


def test_an_empty_run_is_worth_zero():
    result = evaluate({}, {"1": {"a": 1}}, ["AP", "nDCG@10"])
    assert result.mean == {"AP": 0.0, "nDCG@10": 0.0}
    assert result.missing == ("1",)


def test_a_run_of_another_collection_is_refused():
    with pytest.raises(ValueError, match=r"share no query: the run has 1 \('9'\), the qrels have 1 \('1'\)"):
        evaluate({"9": {"a": 1.0}}, {"1": {"a": 1}}, ["AP"])


def test_qrels_without_queries_and_an_empty_list_of_measures_are_refused():
    with pytest.raises(ValueError, match="no judged query"):
        evaluate({"1": {"a": 1.0}}, {}, ["AP"])
    with pytest.raises(ValueError, match="list of measures is empty"):
        evaluate({"1": {"a": 1.0}}, {"1": {"a": 1}}, [])


def test_a_score_that_is_no_number_is_refused_with_its_place():
    with pytest.raises(ValueError, match="qid 'q': docid 'b' has the score nan"):
        value({"a": 1.0, "b": math.nan}, {"a": 1}, "AP")


def test_parameters_are_those_of_ir_measures_and_names_stay_as_given():
    # Order a (1), b (2), c (2). Level 2: relevant b, c at ranks 2, 3: AP = (1/2 + 2/3) / 2 = 7/12; P@2 = 1/2
    run, qrels = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q": {"a": 1, "b": 2, "c": 2}}
    mean = evaluate(run, qrels, ["AP(rel=2)", "P(rel=2)@2", "MAP(rel=2)", "R@1", "SetP"]).mean
    expected = {"AP(rel=2)": 7 / 12, "P(rel=2)@2": 0.5, "MAP(rel=2)": 7 / 12, "R@1": 1 / 3, "SetP": 1.0}
    assert list(mean) == list(expected)
    assert mean == pytest.approx(expected)


def test_measures_with_their_own_gains_do_not_leak_into_others():
    # Grades a 1, b 2, order a, b. Plain: (1 + 2/log2 3) / (2 + 1/log2 3); with gains {1: 9}: (9 + 2/log2 3) / same = 1
    run, qrels = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 1, "b": 2}}
    mean = evaluate(run, qrels, ["nDCG(gains={1: 9})@10", "nDCG@10"]).mean
    assert mean["nDCG(gains={1: 9})@10"] == pytest.approx(1.0)
    assert mean["nDCG@10"] == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ndcg@10", "Did you mean 'nDCG'?"),
        ("nDCG@", "is no measure"),
        ("nDCG(10)", "args must be named"),
        ("Quality@3", "measure not found"),
        ("P", "invalid param cutoff"),
        ("AP(level=2)", "unsupported params"),
        ("nDCG@0", "cutoff must be at least 1; got 0"),
        ("P(rel=0)@5", "rel must be at least 1; got 0"),
        ("P@True", "cutoff must be at least 1"),
        ("RR(judged_only=True)@10", "nothing that is installed computes"),
        ("__import__('os').getcwd()", "is no measure"),
        ("", "is no measure"),
    ],
)
def test_what_is_no_measure_is_refused_with_examples(text, reason):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert reason in str(error.value)
    assert "Examples: nDCG@10, AP" in str(error.value)


def test_the_evaluator_and_the_reward_compute_the_same_ndcg():
    rng = random.Random(7)
    for _ in range(200):
        docids = [f"d{i}" for i in range(rng.randint(1, 25))]
        qrels = {d: rng.choice([-1, 0, 0, 1, 2, 3]) for d in rng.sample(docids, rng.randint(1, len(docids)))}
        scores = {d: float(rng.randint(0, 6)) for d in docids}
        for k in (1, 5, 10):
            assert value(scores, qrels, f"nDCG@{k}") == pytest.approx(ndcg(trec_order(scores), qrels, k=k), abs=1e-9)


def test_the_provider_names_its_versions():
    provider = evaluate({"1": {"a": 1.0}}, {"1": {"a": 1}}, ["AP"]).provider
    assert set(provider) == {"ir_measures", "pytrec_eval-terrier"}
    assert all(version[0].isdigit() for version in provider.values())


def test_equal_scores_stand_by_docid_or_in_the_order_of_the_file():
    # Scores that differ beyond the 24 bits of a 32-bit float are equal.
    run = {"q": {"a": 1.0, "c": 1.0, "b": 1.0 + 1e-12, "d": 0.5}}
    qrels = {"q": {"a": 1}}
    assert evaluate(run, qrels, ["LastRel", "RR"]).mean == {"LastRel": 3.0, "RR": pytest.approx(1 / 3)}
    assert evaluate(run, qrels, ["LastRel", "RR"], ties="file").mean == {"LastRel": 1.0, "RR": 1.0}
    assert evaluate({"q": {"d": 0.5, "a": 1.0}}, qrels, ["RR"], ties="file").mean == {"RR": 1.0}
