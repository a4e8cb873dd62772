"""p-MRR by hand."""

import pytest

from rl_rerank.evaluation.functions.p_mrr import p_mrr

ORIGINAL = {"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}}


def run(*docids):
    return {"q": {docid: -float(rank) for rank, docid in enumerate(docids)}}


def test_a_document_that_goes_down_counts_for_and_one_that_goes_up_against():
    # a from 1 to 4: 1 - 1/4; d from 4 to 1: 1/4 - 1
    assert p_mrr(ORIGINAL, run("b", "c", "d", "a"), {"q": ["a"]}).mean == pytest.approx(0.75)
    assert p_mrr(ORIGINAL, run("d", "a", "b", "c"), {"q": ["d"]}).mean == pytest.approx(-0.75)
    assert p_mrr(ORIGINAL, ORIGINAL, {"q": ["a", "b"]}).mean == 0.0


def test_the_mean_is_over_documents_and_then_over_queries():
    # q: a from 1 to 3 (2/3), b from 2 to 1 (-1/2): 1/12. r: x from 1 to 2: 1/2.
    original, followed = ORIGINAL | {"r": {"x": 2.0, "y": 1.0}}, run("b", "c", "a", "d") | {"r": {"x": 1.0, "y": 2.0}}
    result = p_mrr(original, followed, {"q": ["a", "b"], "r": ["x"]})
    assert result.per_query == pytest.approx({"q": 1 / 12, "r": 0.5})
    assert result.mean == pytest.approx((1 / 12 + 1 / 2) / 2)


def test_a_query_that_a_run_lacks_counts_zero_and_is_listed():
    result = p_mrr(ORIGINAL | {"r": {"x": 1.0}}, run("b", "a", "c", "d"), {"q": ["a"], "r": ["x"], "s": ["z"]})
    assert result.missing == ("r", "s")
    assert result.mean == pytest.approx(0.5 / 3)


def test_nothing_changed_is_refused():
    with pytest.raises(ValueError, match="changed names no query"):
        p_mrr(ORIGINAL, ORIGINAL, {})
    with pytest.raises(ValueError, match="qid 'q' has no document"):
        p_mrr(ORIGINAL, ORIGINAL, {"q": []})
