"""RBP and ERR by hand, and nDCG with exponential gains."""

import math

import pytest

from rl_rerank.evaluation.measures import evaluate, parse

RUN = {"q": {"a": 3.0, "u": 2.0, "b": 1.0}}


def value(measure, grades):
    return evaluate(RUN, {"q": grades}, [measure]).mean[measure]


def test_rbp_by_hand():
    # Relevant at ranks 1 and 3: (1 - .8) (1 + .8^2)
    assert value("RBP(p=0.8,rel=1)", {"a": 1, "b": 2}) == pytest.approx(0.2 * 1.64)
    assert value("RBP(p=0.8,rel=1)@2", {"a": 1, "b": 2}) == pytest.approx(0.2)
    assert value("RBP(p=0.5,rel=2)", {"a": 1, "b": 2}) == pytest.approx(0.5 * 0.25)


def test_err_by_hand():
    # Grade 1 satisfies 1 of 16, grade 2 satisfies 3 of 16: 1/16 at rank 1, then 15/16 * 3/16 at rank 3
    assert value("ERR@10", {"a": 1, "b": 2}) == pytest.approx(1 / 16 + 15 / 16 * 3 / 16 / 3)
    assert value("ERR@2", {"a": 1, "b": 2}) == pytest.approx(1 / 16)
    assert value("ERR@10", {"a": -1, "b": 2}) == pytest.approx(3 / 16 / 3)


def test_exponential_gains_by_hand():
    # Gains 2^1 - 1 = 1 at rank 1 and 2^3 - 1 = 7 at rank 3 (u is unjudged); ideal 7, 1
    ideal = 7 + 1 / math.log2(3)
    assert value("nDCG(dcg='exp-log2')@10", {"a": 1, "b": 3}) == pytest.approx((1 + 7 / 2) / ideal)
    assert value("nDCG(dcg='exp-log2')@1", {"a": 1, "b": 3}) == pytest.approx(1 / 7)
    assert value("nDCG(dcg='exp-log2')", {"a": -1, "b": 3}) == pytest.approx(0.5)


def test_exponential_and_linear_gains_stand_side_by_side():
    measures = ["nDCG(dcg='exp-log2')@10", "nDCG@10", "nDCG(dcg='exp-log2')@1"]
    mean = evaluate(RUN, {"q": {"a": 1, "b": 3}}, measures).mean
    assert list(mean) == measures
    assert mean["nDCG@10"] == pytest.approx((1 + 3 / 2) / (3 + 1 / math.log2(3)))
    assert mean["nDCG(dcg='exp-log2')@1"] == pytest.approx(1 / 7)


def test_two_notations_of_the_same_gains_have_the_same_value():
    measures = ["nDCG(dcg='exp-log2')@10", "nDCG(gains={1: 1, 3: 7})@10"]
    mean = evaluate(RUN, {"q": {"a": 1, "b": 3}}, measures).mean
    assert mean[measures[0]] == mean[measures[1]] == pytest.approx((1 + 7 / 2) / (7 + 1 / math.log2(3)))


def test_a_missing_query_is_worth_zero():
    qrels = {"q": {"a": 1}, "absent": {"a": 1}}
    result = evaluate(RUN, qrels, ["ERR@10", "RBP(p=0.5,rel=1)", "nDCG(dcg='exp-log2')@10"])
    assert result.per_query["absent"] == dict.fromkeys(result.mean, 0.0)
    assert result.mean["RBP(p=0.5,rel=1)"] == pytest.approx(0.5 / 2)


def test_grades_that_are_too_high_are_refused_with_their_place():
    with pytest.raises(ValueError, match=r"ERR@10: qid 'q' has the grade 5; grades must be at most 4"):
        value("ERR@10", {"a": 5})
    with pytest.raises(ValueError, match="the qrels hold the grade 60, too high"):
        value("nDCG(dcg='exp-log2')@10", {"a": 60})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nDCG(dcg='exp-log2',gains={1: 3})@10", "both say what a grade is worth"),
        ("nDCG(dcg='exp')@10", "invalid param dcg"),
        ("RBP(p=1.0,rel=1)", "p must lie between 0 and 1; got 1.0"),
        ("RBP(p=0.8)", "nothing that is installed computes"),
    ],
)
def test_parameters_that_make_no_measure_are_refused(text, reason):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert reason in str(error.value)
